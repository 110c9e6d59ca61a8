"""SQLite: a table in a file, asked with one query.

A look-up takes as long as its query, so that has a bound, which a query with an index is far from.
A file that its writer has locked is waited for in a thread, as a text map is read.
Invariant: the key is a bound parameter, and the file is opened for reading only.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from urllib.parse import quote

from perdition.errors import MapError
from perdition.popmap.base import Popmap, Query, Stale, route_from, text_key
from perdition.route import Route

DEFAULT = "/etc/perdition/popmap.sqlite"
QUERY = "SELECT servername, port FROM popmap WHERE user = :key"
BUSY = 5  # seconds that a thread waits for a writer
STEPS = 1_000_000  # of SQLite's machine, that a query may take: some 20 ms

# A damaged file may put bytes that are no text into the words of an error (UnicodeDecodeError).
_ERRORS = (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError)


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
        except _ERRORS as error:
            if _is_busy(error):
                raise Stale from None
            self.close()
            raise self._trouble(error) from None
        if row is None:
            return None
        server, port, user = (*map(_text, row), "", "", "")[:3]
        return route_from(user.encode("utf-8", "surrogateescape"), server, port, query.delimiter)

    def refresh(self) -> None:
        """Wait for the end of what keeps the file locked; MapError when it does not come."""
        try:
            with closing(self._opened(BUSY)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except _ERRORS as error:
            raise self._trouble(error) from None

    def close(self) -> None:
        """Close the file until the next look-up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        """The connection to the file that bears the name now; SQLite sees changes in it itself."""
        try:
            stat = os.stat(self.path)
            if (stat.st_dev, stat.st_ino) != self._file:
                self.close()
                self._file = (stat.st_dev, stat.st_ino)
            if self._connection is None:
                self._check_whole(stat.st_size)
        except (OSError, ValueError) as error:
            self.close()
            raise MapError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None
        if self._connection is None:
            self._connection = self._opened(0)
            self._connection.set_progress_handler(lambda: 1, STEPS)
        return self._connection

    def _check_whole(self, size: int) -> None:
        """SQLite fills up with zeros what is missing of a page, and users are missing, too."""
        with open(self.path, "rb") as file:
            page = int.from_bytes(file.read(18)[16:])  # bytes; 1 stands for 65536
        if page and size % (65536 if page == 1 else page):
            raise MapError(f"{self.path}: is cut short")

    def _opened(self, patience: float) -> sqlite3.Connection:
        """A connection that waits `patience` seconds for a writer."""
        return sqlite3.connect(
            f"file:{quote(self.path)}?mode=ro", uri=True, timeout=patience,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip

    def _trouble(self, error: Exception) -> MapError:
        if _code(error) == sqlite3.SQLITE_INTERRUPT:
            return MapError(f"{self.path}: the query takes too long; it needs an index")
        if isinstance(error, UnicodeDecodeError):
            return MapError(f"{self.path}: is damaged")
        return MapError(f"{self.path}: {error}")


def _is_busy(error: Exception) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _code(error: Exception) -> int:
    """SQLite's primary result code."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)
