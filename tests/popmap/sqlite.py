"""SQLite, written by another connection; see `battery`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled, columns


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A table with ENTRIES, whose user column has a name of its own."""
    path, away = folder / "popmap.sqlite", folder / "away"

    def fill(entries: Entries) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS popmap (user PRIMARY KEY, servername, port, account)"
            )
            connection.execute("DELETE FROM popmap")
            connection.executemany("INSERT INTO popmap VALUES (?, ?, ?, ?)", columns(entries))

    def move(source: Path, target: Path) -> None:
        source.rename(target)

    fill(ENTRIES)
    query = "SELECT servername, port, account FROM popmap WHERE user = :key"
    yield Filled(f"{path} {query}", fill, lambda: move(path, away), lambda: move(away, path))
