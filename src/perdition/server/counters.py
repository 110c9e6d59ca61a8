"""Numbers that all processes of a daemon share, in memory made before the fork.

Each worker writes only its own column, so no count needs a lock; a reader adds the columns up.
What must be exact at the moment of a decision takes `locked`, a lock that the kernel frees when
its holder dies.
The cells of `perdition.metrics` are here, too: each column has its own, side by side.
Invariant: a column belongs to one process at a time; `release` makes it zero again, and keeps what
was counted since the start in the column of the past.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from perdition.metrics import WIDTH

COLUMNS = 512  # workers alive at once, of all generations
PAST = COLUMNS  # the column of processes that are gone
METRICS = (
    "sessions",  # clients connected now
    "connections",  # clients accepted since the start
    "refused",  # clients over connection_limit since the start
)
_GAUGES = ("sessions",)  # what ends with its process


class Counters:
    """The table; `fork` inherits it, so that all processes see the same memory."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("perdition-counters", os.MFD_CLOEXEC)
        self._metrics_at = len(METRICS) * (COLUMNS + 1)
        size = (self._metrics_at + (COLUMNS + 1) * WIDTH) * 8
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        self._cells = memoryview(self._memory).cast("q")
        self._free = list(range(COLUMNS - 1, -1, -1))

    def row(self, metric: str) -> memoryview:
        """All columns of one metric."""
        start = METRICS.index(metric) * (COLUMNS + 1)
        return self._cells[start : start + COLUMNS + 1]

    def total(self, metric: str) -> int:
        """The sum over all processes."""
        return sum(self.row(metric))

    def metrics(self, column: int) -> memoryview:
        """The cells of a column for `perdition.metrics.Meter`."""
        start = self._metrics_at + column * WIDTH
        return self._cells[start : start + WIDTH]

    def metrics_total(self) -> list[int]:
        """The sums over all processes, those that are gone included."""
        free = set(self._free)
        used = [column for column in range(COLUMNS + 1) if column not in free]
        return [sum(cells) for cells in zip(*map(self.metrics, used), strict=True)]

    def take(self) -> int | None:
        """Give a new process its column; None when all are in use."""
        return self._free.pop() if self._free else None

    def release(self, column: int) -> None:
        """Take back the column of a process that is gone, with what it held."""
        for metric in METRICS:
            row = self.row(metric)
            if metric not in _GAUGES:
                row[PAST] += row[column]
            row[column] = 0
        own, past = self.metrics(column), self.metrics(PAST)
        for cell in range(WIDTH):
            past[cell] += own[cell]
            own[cell] = 0
        self._free.append(column)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process decide meanwhile."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
