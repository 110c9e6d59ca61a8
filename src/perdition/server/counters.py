"""THE metric table: numbers that all processes of a daemon share, in memory made before the fork.

Each worker writes only its own column, so no count needs a lock; a reader adds the columns up.
What must be exact at the moment of a decision takes `locked`, a lock that the kernel frees when
its holder dies.
Invariant: a column belongs to one process at a time, and `release` makes it zero again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

COLUMNS = 512  # workers alive at once, of all generations
METRICS = (
    "sessions",  # clients connected now
    "connections",  # clients accepted since the start
    "refused",  # clients over connection_limit since the start
)


class Counters:
    """The table; `fork` inherits it, so that all processes see the same memory."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("perdition-counters", os.MFD_CLOEXEC)
        size = len(METRICS) * COLUMNS * 8
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        self._cells = memoryview(self._memory).cast("q")
        self._free = list(range(COLUMNS - 1, -1, -1))

    def row(self, metric: str) -> memoryview:
        """All columns of one metric."""
        start = METRICS.index(metric) * COLUMNS
        return self._cells[start : start + COLUMNS]

    def total(self, metric: str) -> int:
        """The sum over all processes."""
        return sum(self.row(metric))

    def take(self) -> int | None:
        """Give a new process its column; None when all are in use."""
        return self._free.pop() if self._free else None

    def release(self, column: int) -> None:
        """Take back the column of a process that is gone, with what it held."""
        for metric in METRICS:
            self.row(metric)[column] = 0
        self._free.append(column)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process decide meanwhile."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
