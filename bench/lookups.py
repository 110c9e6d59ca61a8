"""What a look-up costs in maps of a million users; see `python -m bench.lookups`.

Each figure is the median of several rounds over names chosen at random, asked as a session asks.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from perdition.popmap import gdbm, registry
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
    "sqlite": 30.0,
    "posix_regex": 200.0,
    "posix_regex .*": 200.0,
    "kept answer": 5.0,
}


def _pairs() -> Iterator[tuple[bytes, bytes]]:
    for number in range(USERS):
        yield b"user%d@example.org" % number, b"10.0.%d.1:143" % (number % 250)


def _make(kind: str, folder: Path) -> tuple[str, int]:
    """Make a map; return its option and how many users it knows."""
    path = folder / kind
    if kind.startswith("posix_regex"):
        begin = "^u.*" if ".*" in kind else "^user"  # literal to the end, or a choice in the middle
        rows = (
            f'"{begin}{number:05d}@example[.]org$" 10.0.{number % 250}.1:143\n'
            for number in range(EXPRESSIONS)
        )
        path.write_text("".join(rows))
        return str(path), EXPRESSIONS
    if kind == "gdbm":
        assert not list(gdbm.write(str(path), _pairs()))
    elif kind == "sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE popmap (user PRIMARY KEY, servername, port)")
            connection.executemany(
                "INSERT INTO popmap VALUES (?, ?, NULL)",
                ((key.decode(), value.decode()) for key, value in _pairs()),
            )
    else:
        with path.open("wb") as file:
            file.writelines(b"%s:%s\n" % pair for pair in _pairs())
    return str(path), USERS


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


def measure() -> dict[str, float]:
    """Microseconds of a look-up, by kind."""
    found = {}
    lifetimes = Lifetimes(stale=86_400)
    with tempfile.TemporaryDirectory() as name:
        for kind in TARGETS:
            if kind == "kept answer":
                popmap: Popmap = _Kept("")
                terms = Terms(lifetimes=Lifetimes(found=3600))
                lookups = Lookups(popmap, lambda: _Kept(""), terms, print)
                asyncio.run(_keep(lookups, 1000))
                found[kind] = _median(lookups, 1000)
            else:
                option, users = _make(kind, Path(name))
                popmap = registry.make(kind.split()[0], option)
                another = partial(registry.make, kind.split()[0], option)
                lookups = Lookups(popmap, another, Terms(lifetimes=lifetimes), print)
                form = b"user%05d@example.org" if users == EXPRESSIONS else b"user%d@example.org"
                found[kind] = _median(lookups, users, form)
            lookups.close()
    return found


def main() -> int:
    """Print the table; 0 when every target is met."""
    missed = 0
    print(f"look-ups, {USERS} users, {EXPRESSIONS} expressions  (median of {ROUNDS} rounds)")
    for kind, figure in measure().items():
        met = figure <= TARGETS[kind]
        missed += not met
        verdict = "met" if met else "MISSED"
        print(f"  {kind:15} {figure:7.1f} us   target {TARGETS[kind]:g}   {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
