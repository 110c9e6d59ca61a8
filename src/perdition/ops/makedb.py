"""``makegdbm`` and ``makebdb``: a map's file from ``key:value`` lines, or the lines of a file.

As 2.2's commands, messages and exit statuses included, but the new file is made aside and takes
the old one's name, mode and owner when it is whole: nobody ever reads half a map. A last line
without its end counts. Source: section 7 of the description of 2.2.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import BinaryIO, NamedTuple

from perdition.errors import MapError

FAILED = 255

Entry = tuple[bytes, bytes]


class Format(NamedTuple):
    """How one kind of file is written and read."""

    name: str
    write: Callable[[str, Iterator[Entry]], Iterator[bytes]]  # gives the keys that came twice
    read: Callable[[str], Iterator[Entry]]
    empty_values: bool  # whether an empty value is an entry


def main_gdbm() -> None:
    """The command ``makegdbm``."""
    _main("gdbm", empty_values=False)


def main_bdb() -> None:
    """The command ``makebdb``."""
    _main("bdb", empty_values=True)


def _main(module: str, *, empty_values: bool) -> None:
    """Run one command; each needs its own driver only."""
    name = f"make{module}"
    try:
        driver = import_module(f"perdition.popmap.{module}")
    except ImportError as error:
        print(f"{name}: a library is missing: {error}", file=sys.stderr)
        sys.exit(FAILED)
    sys.exit(run(Format(name, driver.write, driver.entries, empty_values), sys.argv[1:]))


def parser(name: str) -> argparse.ArgumentParser:
    """The words of one command."""
    top = argparse.ArgumentParser(
        prog=name, allow_abbrev=False,
        description="Make a popmap's file of the KEY:VALUE lines on standard input.",
    )  # fmt: skip
    top.add_argument("-u", "--undo", action="store_true", help="print the lines of a file instead")
    top.add_argument("file", help="the map's file, which is made or replaced")
    return top


def run(kind: Format, words: list[str]) -> int:
    """Carry out the command line `words`; return the exit status."""
    try:
        options = parser(kind.name).parse_args(words)
    except SystemExit as end:
        return FAILED if end.code else 0  # 2.2's status
    try:
        if options.undo:
            for key, value in kind.read(options.file):
                sys.stdout.buffer.write(b"%s:%s\n" % (key, value))
        else:
            _make(kind, options.file, sys.stdin.buffer)
    except (MapError, OSError) as error:
        print(f"{kind.name}: {error}", file=sys.stderr)
        return FAILED
    return 0


def _make(kind: Format, path: str, source: BinaryIO) -> None:
    """Write the new file beside the old, then let it take its place."""
    path = os.path.realpath(path)  # a link stays one
    folder = os.path.dirname(path)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind.name}-") as aside:
        new = os.path.join(aside, "new")
        for key in kind.write(new, _entries(kind, source)):
            shown = key.decode("utf-8", "replace")
            print(f"{kind.name}: duplicate key: {shown}", file=sys.stderr)
        try:
            old = os.stat(path)
        except FileNotFoundError:
            os.chmod(new, 0o666 & ~_umask())
        else:
            os.chmod(new, old.st_mode & 0o7777)
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(new, old.st_uid, old.st_gid)
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _entries(kind: Format, source: BinaryIO) -> Iterator[Entry]:
    for number, line in enumerate(source, 1):
        key, colon, value = line.removesuffix(b"\n").partition(b":")
        if not line.strip(b"\n"):
            continue
        if colon and key and (value or kind.empty_values):
            yield key, value
        else:
            print(f"{kind.name}: invalid input on line: {number}", file=sys.stderr)
