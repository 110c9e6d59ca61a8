"""A few threads for drivers that block; when all of them hang, others take their place.

Drivers have time limits, but not all keep them: some of ODBC's wait for a silent server without
end. Such threads are given up, with their connections, and are no more than `SPARE` times as many
as were asked for. Invariant: the loop never waits for a thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

SPARE = 3  # times that all threads may hang at once and be replaced


class _Crew:
    """Some threads, and since when each has been at work."""

    def __init__(self, count: int) -> None:
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="popmap")
        self.count = count
        self._since: dict[int, float] = {}

    def work(self, function: Callable[..., T], *words: object) -> T:
        """In a thread: carry out `function`."""
        own = threading.get_ident()
        self._since[own] = time.monotonic()
        try:
            return function(*words)
        finally:
            del self._since[own]

    def hangs(self, seconds: float) -> bool:
        """Whether every thread has been at work for longer than that."""
        before = time.monotonic() - seconds
        since = tuple(self._since.values())
        return len(since) >= self.count and all(each < before for each in since)

    @property
    def is_at_work(self) -> bool:
        return bool(self._since)


class Threads:
    """`count` threads, of which one that works for `hangs` seconds is thought to hang."""

    def __init__(self, count: int, hangs: float) -> None:
        self._hangs = hangs
        self._crew = _Crew(count)
        self._given_up: list[_Crew] = []

    def run(self, function: Callable[..., T], *words: object) -> asyncio.Future[T]:
        """Have a thread call `function`; what is awaited is its answer."""
        crew = self._crew
        if crew.hangs(self._hangs):
            self._given_up = [each for each in self._given_up if each.is_at_work]
            if len(self._given_up) < SPARE:
                crew.pool.shutdown(wait=False)  # they end when they can
                self._given_up.append(crew)
                crew = self._crew = _Crew(crew.count)
        return asyncio.get_running_loop().run_in_executor(crew.pool, crew.work, function, *words)

    def close(self) -> None:
        """Begin nothing more; what is at work ends by itself."""
        for crew in (self._crew, *self._given_up):
            crew.pool.shutdown(wait=False, cancel_futures=True)
