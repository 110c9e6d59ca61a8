"""GNU dbm, written by the tool of 2.2; see `battery`. Berkeley DB is the same by another tool."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.flat import text_of


@contextmanager
def filled(folder: Path, tool: str = "makegdbm") -> Iterator[Filled]:
    """A file with ENTRIES, made by `tool`."""
    path, away = folder / "popmap.db", folder / "away.db"

    def fill(entries: Entries) -> None:
        subprocess.run([tool, path], input=text_of(entries), check=True, timeout=20)

    def move(source: Path, target: Path) -> None:
        source.rename(target)

    fill(ENTRIES)
    yield Filled(str(path), fill, lambda: move(path, away), lambda: move(away, path))
