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
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from perdition.metrics import FAMILIES, WIDTH
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
_CELL = 8  # bytes
_APART = 1 << 20  # between the numbers of columns in two tables of predecessors
# What must be the same for two versions of the program to share a table.
_PARTS = (COLUMNS, METRICS, FAMILIES, ARRIVAL_CELLS, PENALTY_CELLS)
_LAYOUT = f"{zlib.crc32(repr(_PARTS).encode()):08x}"


class _Before:
    """Where a predecessor that counted other things has its sessions."""

    def __init__(self, fd: int, first: int, count: int) -> None:
        self.fd, self.first, self.count = fd, first, count
        self.sessions = memoryview(mmap.mmap(fd, 0)).cast("q")[first : first + count]


class Counters:
    """The table; `fork` inherits it, so that all processes see the same memory.

    A successor of a running daemon gets its table, `handed_over`, and the columns in use. If that
    was made by a version that counts other things the table is made `anew`, and of the old one, and
    those before it, the sessions are counted still; their columns have numbers below zero.
    """

    def __init__(self, old: Mapping[str, Any] | None = None, used: Collection[int] = ()) -> None:
        self._metrics_at = len(METRICS) * (COLUMNS + 1)
        self._arrivals_at = self._metrics_at + (COLUMNS + 1) * WIDTH
        self._penalties_at = self._arrivals_at + COLUMNS * ARRIVAL_CELLS
        size = (self._penalties_at + PENALTY_CELLS) * _CELL
        self._before: list[_Before] = []
        self.anew = old is None or old["layout"] != _LAYOUT
        if old is not None:
            tables = [*old["before"], old["table"]] if self.anew else old["before"]
            self._before = [_Before(fd, first, count) for fd, first, count in tables]
        if old is None or self.anew:
            self._fd = os.memfd_create("perdition-counters", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, size)  # a page takes memory once something is written there
            used = ()
        else:
            self._fd = int(old["table"][0])
        self._memory = mmap.mmap(self._fd, size)
        self._cells = memoryview(self._memory).cast("q")
        self._free = [column for column in range(COLUMNS - 1, -1, -1) if column not in used]

    def handed_over(self, keep: Callable[[int], int]) -> dict[str, object]:
        """What a successor makes its table of; `keep` is told the descriptors."""
        return {
            "layout": _LAYOUT,
            "table": (keep(self._fd), 0, COLUMNS),  # where the sessions are
            "before": [(keep(each.fd), each.first, each.count) for each in self._before],
        }

    def column_of_predecessor(self, column: int) -> int:
        """Our number for a column in the table that was handed over."""
        if column < 0 or not self.anew:
            return column
        return -1 - column - _APART * (len(self._before) - 1)

    def _old_cell(self, column: int) -> tuple[memoryview, int]:
        number, at = divmod(-1 - column, _APART)
        return self._before[number].sessions, at

    def held(self, metric: str, column: int) -> int:
        """The cell of a process; 0 where a table of a predecessor does not tell."""
        if column >= 0:
            return self.row(metric)[column]
        cells, at = self._old_cell(column)
        return cells[at] if metric == "sessions" else 0

    def row(self, metric: str) -> memoryview:
        """All columns of one metric."""
        start = METRICS.index(metric) * (COLUMNS + 1)
        return self._cells[start : start + COLUMNS + 1]

    def total(self, metric: str) -> int:
        """The sum over all processes."""
        before = sum(sum(each.sessions) for each in self._before) if metric == "sessions" else 0
        return sum(self.row(metric)) + before

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
        if column < 0:
            cells, at = self._old_cell(column)
            cells[at] = 0
            return
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
