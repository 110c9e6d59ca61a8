"""Numbers that all processes of a daemon share, in memory made before the fork.

Each worker writes only its own column, so no count needs a lock; a reader adds the columns up.
What must be exact at the moment of a decision takes `locked`, a lock that the kernel frees when
its holder dies.
The cells of `perdition.metrics` and `perdition.session.addresses` are here, too: each column has
its own, side by side; those of failed logins are everybody's.
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
from perdition.session.addresses import ARRIVAL_CELLS, PENALTY_CELLS

COLUMNS = 512  # workers alive at once, of all generations
PAST = COLUMNS  # the column of processes that are gone
METRICS = (
    "sessions",  # clients connected now
    "connections",  # clients accepted since the start
    "refused",  # clients over connection_limit since the start
    "alive",  # 1 for a worker that serves
)
_GAUGES = ("sessions", "alive")  # what ends with its process
_NO_ARRIVALS = memoryview(bytes(8 * ARRIVAL_CELLS)).cast("q")


class Counters:
    """The table; `fork` inherits it, so that all processes see the same memory."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("perdition-counters", os.MFD_CLOEXEC)
        self._metrics_at = len(METRICS) * (COLUMNS + 1)
        self._arrivals_at = self._metrics_at + (COLUMNS + 1) * WIDTH
        self._penalties_at = self._arrivals_at + COLUMNS * ARRIVAL_CELLS
        size = (self._penalties_at + PENALTY_CELLS) * 8
        os.ftruncate(self._fd, size)  # a page takes memory once something is written there
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

    def arrivals(self, column: int) -> memoryview:
        """The cells of a column for `perdition.session.addresses.Arrivals`."""
        start = self._arrivals_at + column * ARRIVAL_CELLS
        return self._cells[start : start + ARRIVAL_CELLS]

    def other_arrivals(self, column: int) -> list[memoryview]:
        """Those of all the others that are alive."""
        alive = enumerate(self.row("alive")[:COLUMNS])
        return [self.arrivals(other) for other, is_alive in alive if is_alive and other != column]

    @property
    def penalties(self) -> memoryview:
        """The cells for `perdition.session.addresses.Penalties`."""
        return self._cells[self._penalties_at : self._penalties_at + PENALTY_CELLS]

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
        self.arrivals(column)[:] = _NO_ARRIVALS
        self._free.append(column)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process decide meanwhile."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
