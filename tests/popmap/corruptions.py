"""File maps whose bytes were overwritten at random, asked in a process of its own.

    python -m tests.popmap.corruptions KIND COUNT

Prints what the look-ups came to, one word each with its number. A library that crashes on a damaged
file ends this process, and the last line of standard error tells which file it was.
"""

from __future__ import annotations

import faulthandler
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.popmap.test_files import file_of

from perdition.errors import MapError
from perdition.popmap import registry
from perdition.popmap.base import Query, route_of

PAIRS = {b"user%d@example.org" % n: b"mail%d.example:143" % (n % 50) for n in range(400)}
ASKED = 50  # users of each file
SLOW = 1.0  # seconds that no look-up takes
PAGE = 4096
_NUMBERS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\x10\0\0", bytes(4))


def corrupt(whole: bytes, dice: random.Random) -> bytes:
    """Overwrite some places, often in the first pages, where a file's structure is."""
    data = bytearray(whole)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data) if dice.random() < 0.6 else min(len(data), 2 * PAGE))
        match dice.randrange(5):
            case 0:
                new = dice.randbytes(dice.choice((1, 4, 16, 256, PAGE)))
            case 1:
                new = bytes(dice.choice((64, 512, PAGE)))
            case 2:
                at, new = at & ~3, dice.choice(_NUMBERS)
            case 3:
                at, new = at & ~1, dice.choice((b"\xff\xff", b"\0\0", b"\xff\x7f"))
            case _:  # one page where another was
                at, other = at // PAGE * PAGE, dice.randrange(len(data)) // PAGE * PAGE
                new = whole[other : other + PAGE]
        data[at : at + len(new)] = new[: len(data) - at]
    return bytes(data)


def ask(kind: str, path: Path, outcomes: Counter[str]) -> None:
    """Ask for some users."""
    popmap = registry.make(kind, str(path))
    for key, value in itertools.islice(PAIRS.items(), ASKED):
        started = time.monotonic()
        try:
            route = popmap.lookup(Query(key))
            word = "missing" if route is None else "wrong" if route != route_of(value) else "right"
        except MapError:
            word = "trouble"
        outcomes[word] += 1
        outcomes["slow"] += time.monotonic() - started > SLOW
    popmap.close()


def show(kind: str, path: Path, outcomes: Counter[str]) -> None:
    """Print the file as makegdbm -u does."""
    module = sys.modules[registry.map_class(kind).__module__]
    try:
        shown = sum(1 for _ in module.entries(str(path)))
    except MapError:
        shown = 0
    outcomes["endless"] += shown > 10 * len(PAIRS)


def main() -> None:
    """See the module."""
    faulthandler.enable()
    kind, count = sys.argv[1], int(sys.argv[2])
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "popmap"
        file_of(kind, path, PAIRS)
        whole = path.read_bytes()
        for seed in range(count):
            print(f"{kind} {seed}", file=sys.stderr, flush=True)
            path.unlink()
            path.write_bytes(corrupt(whole, random.Random(seed)))
            ask(kind, path, outcomes)
            if kind == "gdbm":  # Berkeley's own library is not for damaged files
                show(kind, path, outcomes)
    print(" ".join(f"{word} {number}" for word, number in sorted(outcomes.items())))


if __name__ == "__main__":
    main()
