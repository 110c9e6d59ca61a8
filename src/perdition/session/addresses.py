"""What is remembered of addresses: how many of their clients are not logged in, and failed logins.

Both are tables of 64-bit cells in memory that all workers of a daemon share, used without a lock:
where two names fall together, or two processes act at once, somebody waits less or is not counted.
A key is where a client comes from, with the user's name where that counts; an IPv6 client is its
network of 64 bits, since it may have every address in it.
Invariant: nothing here grows, waits, or costs a login more than some microseconds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, MutableSequence, Sequence

ARRIVAL_CELLS = 8192  # of one worker: keys and their counts, in turn
PENALTY_CELLS = 32_768  # of all workers: keys, and until when and how often, in turn
FORGOTTEN = 600  # seconds after the last wait's end
_MOST = 255  # failures that are told apart

Cells = MutableSequence[int] | memoryview


def network_of(host: str) -> object:
    """What stands for all addresses that the client at `host` may have."""
    if ":" not in host:
        return host
    try:
        return socket.inet_pton(socket.AF_INET6, host)[:8]
    except OSError:
        return host  # with a scope: link-local


def _find(cells: Cells, key: int) -> int:
    """Where the key stands, -1 for nowhere; it has two places."""
    at = (key & (len(cells) // 2 - 1)) * 2
    if cells[at] == key:
        return at
    at ^= 2
    return at if cells[at] == key else -1


class Arrivals:
    """Clients of one address that have not logged in yet, over all workers."""

    def __init__(self, limit: int, own: Cells, others: Callable[[], Sequence[Cells]]) -> None:
        """`own` are this worker's cells; `others` gives those of the other workers."""
        self.limit = limit
        self._own = own
        self._mask = len(own) // 2 - 1
        self._look = others
        self._others: Sequence[Cells] | None = None

    def look_again(self) -> None:
        """Other workers come and go: ask for them anew when a client comes; called every second."""
        self._others = None

    @staticmethod
    def key(host: str) -> int:
        """What `enter` takes."""
        return hash(network_of(host)) or 1

    def enter(self, key: int) -> int:
        """Count a client in; its place for `leave`, 0 where none was free, -1: no room for it."""
        own, there = self._own, 0
        if self._others is None:
            self._others = self._look()
        for cells in self._others:
            found = _find(cells, key)
            if found >= 0:
                there += cells[found + 1]
        at = (key & self._mask) * 2
        if own[at] != key:
            if own[at ^ 2] == key or own[at + 1]:
                at ^= 2
            if own[at] != key and own[at + 1]:  # both places are taken
                return 0 if there < self.limit else -1
            own[at] = key
        mine = own[at + 1]
        if mine + there >= self.limit:
            return -1
        own[at + 1] = mine + 1
        return at + 1

    def leave(self, place: int) -> None:
        """Count out a client that was let in."""
        self._own[place] -= 1


class Penalties:
    """How long a user's logins from one address have to wait, over all workers."""

    def __init__(self, cells: Cells, first: int, most: int) -> None:
        """Seconds after the first failure, and at most; each failure doubles them."""
        self._cells = cells
        self._mask = len(cells) // 2 - 1
        self._first = first
        self._most = most

    @staticmethod
    def key(host: str, user: bytes) -> int:
        """What the others take."""
        return hash((network_of(host), user.lower())) or 1

    def known(self, key: int) -> bool:
        """Whether there is anything to wait for, or to forgive."""
        cells, at = self._cells, (key & self._mask) * 2
        return cells[at] == key or cells[at ^ 2] == key  # as `_find`, for each login asks

    def wait(self, key: int) -> float:
        """Seconds until a login may be tried."""
        at = _find(self._cells, key)
        if at < 0:
            return 0.0
        return max(0, (self._cells[at + 1] >> 8) - _milliseconds()) / 1000

    def failed(self, key: int) -> int:
        """Note a failure; seconds until the client may hear of it."""
        cells, now = self._cells, _milliseconds()
        at = _find(cells, key)
        times = 0
        if at >= 0:
            until, times = cells[at + 1] >> 8, cells[at + 1] & _MOST
            if now > until + FORGOTTEN * 1000:
                times = 0
        else:
            at = (key & (len(cells) // 2 - 1)) * 2
            if cells[at ^ 2 | 1] < cells[at + 1]:
                at ^= 2  # the one that is over sooner
        seconds = min(self._first << min(times, 16), self._most)
        cells[at + 1] = now + seconds * 1000 << 8 | min(times + 1, _MOST)
        cells[at] = key
        return seconds

    def forgive(self, key: int) -> None:
        """The user is in: forget the failures."""
        at = _find(self._cells, key)
        if at >= 0:
            self._cells[at] = self._cells[at + 1] = 0


def _milliseconds() -> int:
    return time.monotonic_ns() // 1_000_000
