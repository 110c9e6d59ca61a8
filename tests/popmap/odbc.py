"""unixODBC with the driver for SQLite, see `battery`; other drivers are in files of their own."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled, columns
from tests.popmap.services import program

_NUMBERS = itertools.count()


@contextmanager
def data_source(folder: Path, **words: object) -> Iterator[str]:
    """Give a data source's name; its odbc.ini is that of this process and its children.

    The name is a new one each time: unixODBC remembers what it has read for a while.
    """
    program("odbcinst")
    ini = folder / "odbc.ini"
    name = f"perdition{next(_NUMBERS)}"
    ini.write_text("".join(f"{word} = {value}\n" for word, value in words.items()))
    ini.write_text(f"[{name}]\n{ini.read_text()}")
    before = os.environ.get("ODBCINI")
    os.environ["ODBCINI"] = str(ini)
    try:
        yield name
    finally:
        os.environ.pop("ODBCINI")
        if before is not None:
            os.environ["ODBCINI"] = before


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A data source with ENTRIES; without its file there is no table."""
    path, away = folder / "popmap.sqlite", folder / "away"

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
    query = "SELECT servername, port, account FROM tblPerdition WHERE user = :key"
    with data_source(folder, Driver="SQLite3", Database=path, Timeout=1000) as dsn:
        yield Filled(f"::{dsn}:tblPerdition::: {query}", fill, stop, start)
