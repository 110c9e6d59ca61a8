"""A cdb written by tinycdb's cdb(1), see `battery`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.services import program


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A file with ENTRIES."""
    path, away = folder / "popmap.cdb", folder / "away"

    def fill(entries: Entries) -> None:
        lines = [b"+%d,%d:%s->%s\n" % (len(k), len(v), k, v) for k, v in entries.items()]
        text = b"".join(lines) + b"\n"
        command: list[str | Path] = [program("cdb"), "-c", "-t", folder / "new", path]
        subprocess.run(command, input=text, check=True, timeout=20)

    def move(source: Path, target: Path) -> None:
        source.rename(target)

    fill(ENTRIES)
    yield Filled(str(path), fill, lambda: move(path, away), lambda: move(away, path))
