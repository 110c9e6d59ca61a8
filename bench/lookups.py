"""What a look-up costs in maps of a million users; see `python -m bench.lookups`.

Beside it stands the same map with a hundredth of the users: the time must not grow with their
number. Each figure is the median of several rounds over names chosen at random, asked as a session
asks.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from perdition.popmap import bdb, gdbm, registry
from perdition.popmap.base import Popmap, Query, route_of
from perdition.popmap.cache import Lifetimes
from perdition.popmap.lookups import Lookups, Terms
from perdition.route import Route

USERS = 1_000_000
EXPRESSIONS = 10_000
ROUNDS, ASKED = 9, 2000

# Kind -> microseconds that a look-up may take.
TARGETS = {
    "popmap": 30.0,
    "gdbm": 30.0,
    "bdb": 60.0,
    "sqlite": 30.0,
    "posix_regex": 200.0,
    "posix_regex .*": 200.0,
    "kept answer": 5.0,  # of SQL, LDAP and every other map that waits
}


def _pairs(users: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(users):
        yield b"user%d@example.org" % number, b"10.0.%d.1:143" % (number % 250)


def _make(kind: str, folder: Path, part: int) -> tuple[str, int]:
    """Make a map with one of so many parts of all users; its option, and how many it knows."""
    path, users, expressions = folder / f"{kind}{part}", USERS // part, EXPRESSIONS // part
    if kind.startswith("posix_regex"):
        begin = "^u.*" if ".*" in kind else "^user"  # literal to the end, or a choice in the middle
        rows = (
            f'"{begin}{number:05d}@example[.]org$" 10.0.{number % 250}.1:143\n'
            for number in range(expressions)
        )
        path.write_text("".join(rows))
        return str(path), expressions
    if kind in ("gdbm", "bdb"):
        write = gdbm.write if kind == "gdbm" else bdb.write
        assert not list(write(str(path), _pairs(users)))
    elif kind == "sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE popmap (user PRIMARY KEY, servername, port)")
            connection.executemany(
                "INSERT INTO popmap VALUES (?, ?, NULL)",
                ((key.decode(), value.decode()) for key, value in _pairs(users)),
            )
    else:
        with path.open("wb") as file:
            file.writelines(b"%s:%s\n" % pair for pair in _pairs(users))
    return str(path), users


class _Kept(Popmap):
    """A map that waits, whose answers are kept."""

    waits = True

    def __init__(self, option: str) -> None:
        pass

    def lookup(self, query: Query) -> Route | None:
        return route_of(b"10.0.0.1:143")


def _median(lookups: Lookups, users: int, form: bytes = b"user%d@example.org") -> float:
    """Microseconds of one look-up."""
    figures = []
    for _ in range(ROUNDS):
        names = [form % random.randrange(users) for _ in range(ASKED)]
        started = time.perf_counter()
        for name in names:
            assert isinstance(lookups.ready(Query(name)), Route)
        figures.append((time.perf_counter() - started) / ASKED * 1e6)
    return statistics.median(figures)


async def _keep(lookups: Lookups, users: int) -> None:
    for number in range(users):
        await lookups.ask(Query(b"user%d@example.org" % number))


def measure(kind: str, part: int) -> float:
    """Microseconds of a look-up in a map that knows one of so many parts of all users."""
    with tempfile.TemporaryDirectory() as name:
        if kind == "kept answer":
            popmap: Popmap = _Kept("")
            another: Callable[[], Popmap] = partial(_Kept, "")
            lifetimes, users, form = Lifetimes(found=3600), 100_000 // part, b"user%d@example.org"
        else:
            option, users = _make(kind, Path(name), part)
            another = partial(registry.make, kind.partition(" ")[0], option)
            popmap, lifetimes = another(), Lifetimes(stale=86_400)
            regex = kind.startswith("posix_regex")
            form = b"user%05d@example.org" if regex else b"user%d@example.org"
        lookups = Lookups(popmap, another, Terms(lifetimes=lifetimes), print)
        if kind == "kept answer":
            asyncio.run(_keep(lookups, users))
        figure = _median(lookups, users, form)
        lookups.close()
    return figure


def main() -> int:
    """Print the table; 0 when every target is met."""
    missed = 0
    print(f"look-ups in microseconds, median of {ROUNDS} rounds; {USERS:,} users, or as many "
          f"answers as are kept; {EXPRESSIONS:,} expressions")  # fmt: skip
    print(f"  {'':15} {'a hundredth':>12} {'all':>8}   target")
    for kind, target in TARGETS.items():
        few, figure = measure(kind, 100), measure(kind, 1)
        met = figure <= target
        missed += not met
        print(f"  {kind:15} {few:12.1f} {figure:8.1f}   {target:g} {'met' if met else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
