"""SQLite: a table in a file, asked with one query.

Invariant: the key is a bound parameter, and the file is opened for reading only.
"""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote

from perdition.errors import MapError
from perdition.popmap.base import Popmap, Query, route_from, text_key
from perdition.route import Route

DEFAULT = "/etc/perdition/popmap.sqlite"
QUERY = "SELECT servername, port FROM popmap WHERE user = :key"
BUSY = 0.5  # seconds to wait for a writer


class Map(Popmap):
    """``map_library_opt``: the file's path, and behind a blank a query of one's own.

    The query has ``:key`` for the key and gives one to three columns: server, port, user.
    """

    def __init__(self, option: str) -> None:
        path, _, query = option.partition(" ")
        self.path = path or DEFAULT
        self.query = query.strip() or QUERY
        if not self.query.lower().startswith(("select ", "with ")):
            raise MapError("the sqlite map's query does not begin with SELECT")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # the one that is connected to

    def lookup(self, query: Query) -> Route | None:
        key = text_key(query)
        if key is None:
            return None
        try:
            row = self._connect().execute(self.query, {"key": key}).fetchone()
        except (sqlite3.Error, sqlite3.Warning) as error:
            self.close()
            raise MapError(f"{self.path}: {error}") from None
        if row is None:
            return None
        server, port, user = (*("" if each is None else str(each) for each in row), "", "", "")[:3]
        return route_from(user.encode(), server, port, query.delimiter)

    def close(self) -> None:
        """Close the file until the next look-up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        """The connection to the file that bears the name now; SQLite sees changes in it itself."""
        try:
            stat = os.stat(self.path)
        except (OSError, ValueError) as error:
            self.close()
            raise MapError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None
        if (stat.st_dev, stat.st_ino) != self._file:
            self.close()
            self._file = (stat.st_dev, stat.st_ino)
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"file:{quote(self.path)}?mode=ro", uri=True, timeout=BUSY,
                isolation_level=None, check_same_thread=False,
            )  # fmt: skip
        return self._connection
