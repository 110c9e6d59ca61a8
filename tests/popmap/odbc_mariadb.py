"""unixODBC with MariaDB's driver before MariaDB, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.popmap import mysql
from tests.popmap.battery import Filled
from tests.popmap.odbc import data_source
from tests.popmap.services import PASSWORD


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """What `mysql` has, by another way."""
    words = {"Driver": "MariaDB Unicode", "Server": "127.0.0.1", "Database": "dbPerdition"}
    query = "SELECT servername, port, account FROM tblPerdition WHERE user = :key"
    port = mysql.server().port
    with mysql.filled(folder) as real, data_source(folder, **words, Port=port) as dsn:
        yield replace(real, option=f"::{dsn}:tblPerdition:perdition:{PASSWORD} {query}")
