"""How a session asks a map: at once where the answer is at hand, else in a thread, within bounds.

A map that never waits is asked on the spot; it is in a thread only to read its file anew. A map
that waits has a few threads, each with an object (a connection) of its own. When a map is down the
last answer of a user serves; of one that waits, one look-up at a time finds out whether it is back,
and every other one fails without waiting. A map that is slow lets nobody wait long who has a last
answer (RFC 8767, section 5): that serves, and what the map says late counts from the next time on.
Invariant: the loop never waits for a map, and no look-up lives longer than its time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Hashable
from enum import Enum
from typing import NamedTuple

from perdition import metrics
from perdition.errors import MapError
from perdition.metrics import Meter
from perdition.popmap.base import Popmap, Query, Stale
from perdition.popmap.cache import Answer, Cache, Lifetimes
from perdition.popmap.threads import Threads
from perdition.route import Route

HANGS = 3.0  # times `Terms.timeout` after which a look-up's thread is thought to hang
DOWN = 5.0  # seconds after a failure in which one look-up at a time tries the map
PATIENCE = 1.8  # seconds that a user waits for the map whom its last answer can serve


class Terms(NamedTuple):
    """Bounds; see the ``map_*`` options."""

    connections: int = 4
    timeout: float = 10.0  # seconds a look-up may take, its wait for a thread included
    queue_limit: int = 1000  # look-ups under way at once
    cache_size: int = 100_000
    lifetimes: Lifetimes = Lifetimes()


class Pending(Enum):
    """Said instead of an answer: `Lookups.ask` has to be awaited."""

    PENDING = 0


PENDING = Pending.PENDING


class Lookups:
    """The map of one worker; `another` makes one more of it for a thread."""

    def __init__(
        self, popmap: Popmap, another: Callable[[], Popmap], terms: Terms,
        say: Callable[[str], None], meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self.terms = terms
        self._meter = meter or Meter()
        self._map = popmap
        self._another = another
        self._say = say  # writes an error to the log
        self._cache = Cache(terms.lifetimes, terms.cache_size, time.monotonic)
        self._threads = Threads(terms.connections if popmap.waits else 1, HANGS * terms.timeout)
        self._own = threading.local()
        self._made: list[Popmap] = [popmap]  # all objects, to be closed
        self._under_way = 0
        self._down_until = 0.0
        self._trouble = ""  # what was last logged; empty: all is well
        self._outdated = False  # the map's file can't be read: what was read before serves
        self._reading: asyncio.Future[None] | None = None

    def ready(self, query: Query) -> Route | Pending | None:
        """Return the answer if it needs no waiting, else PENDING; MapError as `Popmap.lookup`."""
        meter = self._meter
        if self._map.waits:
            answer = self._cache.fresh(self._key(query))
            meter.count(metrics.CACHE_MISS if answer is None else metrics.CACHE_HIT)
            return PENDING if answer is None else answer.route
        started = time.monotonic()
        try:
            route = self._map.lookup(query)
        except Stale:
            return PENDING
        except MapError as error:
            meter.count(metrics.LOOKUP_ERROR)
            self._failed(error)
            if (stale := self._stale(query)) is not None:
                meter.count(metrics.CACHE_STALE)
                return stale.route
            raise
        self._found(route, started)
        if self._trouble and not self._outdated:
            self._works()
        self._keep(query, route)
        return route

    async def ask(self, query: Query) -> Route | None:
        """Return the answer; MapError when the map can't tell in time."""
        if not self._map.waits:
            return await self._read_and_look(query)
        terms = self.terms
        stale = self._stale(query)
        if time.monotonic() < self._down_until and self._under_way:
            if stale is not None:
                self._meter.count(metrics.CACHE_STALE)
                return stale.route
            raise MapError(self._trouble)
        if self._under_way >= terms.queue_limit:
            self._meter.count(metrics.LIMIT["map_queue_limit"])
            if stale is not None:
                self._meter.count(metrics.CACHE_STALE)
                return stale.route
            raise MapError(f"{terms.queue_limit} look-ups are under way already")
        if stale is None:
            return await self._ask_map(query)
        asked = asyncio.ensure_future(self._ask_map(query))
        try:
            await asyncio.wait({asked}, timeout=PATIENCE)
        finally:
            asked.add_done_callback(_leave)
        if asked.done() and not isinstance(asked.exception(), MapError):
            return asked.result()
        self._meter.count(metrics.CACHE_STALE)
        return stale.route

    async def _ask_map(self, query: Query) -> Route | None:
        """The answer of a map that waits, kept; MapError when there is none in time."""
        terms = self.terms
        self._under_way += 1
        started = time.monotonic()
        try:
            route = await asyncio.wait_for(self._threads.run(self._look, query), terms.timeout)
        except (TimeoutError, MapError) as error:
            if not isinstance(error, MapError):
                error = MapError(f"no answer within {terms.timeout:g} s")
            self._meter.count(metrics.LOOKUP_ERROR)
            self._failed(error)
            self._down_until = time.monotonic() + DOWN
            raise error from None
        finally:
            self._under_way -= 1
        self._down_until = 0.0
        self._found(route, started)
        if self._trouble:
            self._works()
        self._keep(query, route)
        return route

    def _found(self, route: Route | None, started: float) -> None:
        """Count an answer of the map itself."""
        meter = self._meter
        meter.count(metrics.LOOKUP_UNKNOWN if route is None else metrics.LOOKUP_FOUND)
        meter.took(metrics.LOOKUP_SECONDS, time.monotonic() - started)

    def flush(self, keys: Collection[bytes] = ()) -> int:
        """Forget the answers to these keys, from wherever they were asked; none given: all."""
        return self._cache.flush(
            lambda key: not keys or (key[0] if isinstance(key, tuple) else key) in keys
        )

    def close(self) -> None:
        """Ask no more; a look-up under way ends by itself."""
        self._threads.close()
        for popmap in self._made:
            popmap.close()

    def _key(self, query: Query) -> Hashable:
        """What an answer is kept under; no answer depends on the port that a client comes from."""
        if self._map.uses_addresses:
            return query.key, query.client and query.client[0], query.local
        return query.key

    def _keep(self, query: Query, route: Route | None) -> None:
        self._cache.keep(self._key(query), route)
        if self._map.uses_addresses:
            self._cache.keep(query.key, route)  # for when the map is down, whoever asks then

    def _stale(self, query: Query) -> Answer | None:
        """The last answer, as this client got it or else anybody."""
        stale = self._cache.stale(self._key(query))
        if stale is None and self._map.uses_addresses:
            stale = self._cache.stale(query.key)
        return stale

    def _look(self, query: Query) -> Route | None:
        """In a thread."""
        popmap: Popmap | None = getattr(self._own, "map", None)
        if popmap is None:
            popmap = self._own.map = self._another()
            self._made.append(popmap)
        return popmap.lookup(query)

    async def _read_and_look(self, query: Query) -> Route | None:
        if self._reading is None:
            self._reading = self._threads.run(self._map.refresh)
        reading = self._reading
        try:
            await asyncio.wait({reading}, timeout=self.terms.timeout)
            error = reading.exception() if reading.done() else None
            self._outdated = error is not None
            if isinstance(error, MapError):
                self._failed(error)
            elif error is not None:
                raise error
            elif self._trouble:
                self._works()
        finally:
            if reading.done() and self._reading is reading:
                self._reading = None
        started = time.monotonic()
        try:
            route = self._map.lookup(query)
        except (Stale, MapError) as error:
            if (stale := self._stale(query)) is not None:
                self._meter.count(metrics.CACHE_STALE)
                return stale.route
            if isinstance(error, MapError):
                raise
            raise MapError("the map's file is still being read or written") from None
        self._found(route, started)
        self._keep(query, route)
        return route

    def _failed(self, error: MapError) -> None:
        """Log the first failure of a row, and each that says something else."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._say(f"popmap: {error}")

    def _works(self) -> None:
        self._trouble = ""
        self._say("popmap: answers again")


def _leave(asked: asyncio.Future[Route | None]) -> None:
    """Take note of the end of a look-up that nobody waits for any more; it is logged already."""
    if not asked.cancelled():
        asked.exception()
