"""What a tree of processes has cost: CPU time to the nanosecond, memory as the kernel counts it.

CPU is the process clock of every live process (all threads, finished ones included) plus the time
of the children that each has reaped, so that a fork for each client counts; the latter comes in
clock ticks.  Memory is PSS: a page shared by n processes counts 1/n for each.
Needs no privilege for processes of the same user.
"""

import os
import time
from pathlib import Path

METHOD = "process CPU clocks of the live processes + cutime and cstime of reaped children"

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2


def tree(root: int) -> list[int]:
    """Lists the process and all its living descendants."""
    found = [root]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _cpu_of(pid: int) -> float:
    clock = (~pid << 3) | _CPUCLOCK_SCHED  # clock_getcpuclockid(3)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        live = time.clock_gettime(clock)
    except (OSError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(") ")[2].split()
    return live + (int(fields[13]) + int(fields[14])) * _TICK


def cpu_seconds(root: int) -> float:
    """Sums the CPU time of the tree, dead children included."""
    return sum(map(_cpu_of, tree(root)))


def cpu_by_process(root: int) -> dict[int, float]:
    """Gives the CPU time of each process of the tree."""
    return {pid: _cpu_of(pid) for pid in tree(root)}


def ticks(root: int) -> tuple[int, int]:
    """Gives the tree's clock ticks in programs and in the kernel; coarse, good for their share."""
    spent = [0, 0, 0, 0]
    for pid in tree(root):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (OSError, ProcessLookupError):
            continue
        fields = stat.rpartition(") ")[2].split()[11:15]
        spent = [total + int(each) for total, each in zip(spent, fields, strict=True)]
    return spent[0] + spent[2], spent[1] + spent[3]


def settled_cpu_seconds(root: int, processes: int, limit: float = 3.0) -> float:
    """Reads the CPU time once the tree is back to so many processes and has gone quiet."""
    end = time.monotonic() + limit
    before = -1.0
    while True:
        now = cpu_seconds(root)
        quiet = now - before < 0.0001 and len(tree(root)) <= processes
        if quiet or time.monotonic() > end:
            return now
        before = now
        time.sleep(0.01)


def open_files(root: int) -> int:
    """Counts the descriptors of the tree."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(root))


def rss_bytes(root: int) -> int:
    """Sums the resident set size of the tree: other processes that come and go do not move it."""
    return _rollup(root, "Rss:")


def pss_bytes(root: int) -> int:
    """Sums the proportional set size of the tree."""
    return _rollup(root, "Pss:")


def _rollup(root: int, field: str) -> int:
    total = 0
    for pid in tree(root):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith(field))
    return total * 1024
