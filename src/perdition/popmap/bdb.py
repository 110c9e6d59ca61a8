"""Berkeley DB, a file made by makebdb, by the library's own bindings (either name of them)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

try:
    from berkeleydb import db
except ImportError:
    from bsddb3 import db


_MAGICS = (0x061561, 0x053162, 0x042253)  # hash, tree, queue

# A database of numbered records takes no texts for keys (TypeError); names may be of any bytes.
_ERRORS = (db.DBError, TypeError, ValueError)


class Map(KeptFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.bdb.db"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._database: Any = None

    def _open(self) -> None:
        if not _is_whole(self.path):
            raise MapError(f"{self.path}: is cut short, or being written")
        database = db.DB()
        try:
            # Not mapped into memory: a file that its writer cuts short would end the process.
            database.open(self.path, None, db.DB_UNKNOWN, db.DB_RDONLY | db.DB_NOMMAP)
        except _ERRORS as error:
            _closed(database)
            raise MapError(f"{self.path}: {_reason(error)}") from None
        self._database = database

    def _fetch(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._database.get(key)
        except _ERRORS as error:
            self.close()
            raise MapError(f"{self.path}: {_reason(error)}") from None
        return value

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            _closed(database)


def _is_whole(path: str) -> bool:
    """Whether the file is as long as its first page says; the library takes what lacks for empty.

    Source: the head of each file, of which these fields are the same in all versions (db_page.h):
    magic at 12, bytes of a page at 20, number of the last page at 32, in the writer's byte order.
    """
    with open(path, "rb") as file:
        head = file.read(36)
        size = file.seek(0, 2)
    for order in "<>":
        magic, _, page, *_, last = struct.unpack_from(f"{order}6I", head.ljust(36, b"\0"), 12)
        if magic in _MAGICS:
            return bool(page * (last + 1) <= size)
    return True  # the library will say what is wrong


def _closed(database: Any) -> None:
    """Close a database, which one that has found its file damaged calls an error again."""
    try:
        database.close()
    except db.DBError:
        pass


def _reason(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)


def write(path: str, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Make the file `path`; gives the keys that came twice, of which the first counts."""
    database = db.DB()
    try:
        database.open(path, None, db.DB_HASH, db.DB_CREATE | db.DB_EXCL, 0o600)
        for key, value in pairs:
            try:
                database.put(key, value, flags=db.DB_NOOVERWRITE)
            except db.DBKeyExistError:
                yield key
    except db.DBError as error:
        raise MapError(f"{path}: {_reason(error)}") from None
    finally:
        database.close()


def entries(path: str) -> Iterator[tuple[bytes, bytes]]:
    """The pairs in the file `path`, in no order."""
    database = db.DB()
    try:
        database.open(path, None, db.DB_UNKNOWN, db.DB_RDONLY)
        cursor = database.cursor()
        while (pair := cursor.next()) is not None:
            yield pair
        cursor.close()
    except _ERRORS as error:
        raise MapError(f"{path}: {_reason(error)}") from None
    finally:
        _closed(database)
