"""unixODBC with the driver for SQLite, see `battery`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled, columns
from tests.popmap.services import program


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A data source with ENTRIES; without its file there is no table."""
    program("odbcinst")
    path, away = folder / "popmap.sqlite", folder / "away"
    (folder / "odbc.ini").write_text(
        f"[dbPerdition]\nDriver = SQLite3\nDatabase = {path}\nTimeout = 1000\n"
    )

    def fill(entries: Entries) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS tblPerdition "
                "(user PRIMARY KEY, servername, port, account)"
            )
            connection.execute("DELETE FROM tblPerdition")
            connection.executemany("INSERT INTO tblPerdition VALUES (?, ?, ?, ?)", columns(entries))

    def stop() -> None:
        away.write_bytes(path.read_bytes())
        path.write_bytes(b"no database" * 1000)

    def start() -> None:
        path.write_bytes(away.read_bytes())

    fill(ENTRIES)
    before = os.environ.get("ODBCINI")
    os.environ["ODBCINI"] = str(folder / "odbc.ini")
    query = "SELECT servername, port, account FROM tblPerdition WHERE user = :key"
    try:
        yield Filled(f"::dbPerdition:tblPerdition::: {query}", fill, stop, start)
    finally:
        os.environ.pop("ODBCINI")
        if before is not None:
            os.environ["ODBCINI"] = before
