"""Berkeley DB, a file made by makebdb, by the library's own bindings (either name of them)."""

from __future__ import annotations

from typing import Any

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

try:
    from berkeleydb import db
except ImportError:
    from bsddb3 import db


class Map(KeptFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.bdb.db"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._database: Any = None

    def _open(self) -> None:
        database = db.DB()
        try:
            # Not mapped into memory: a file that its writer cuts short would end the process.
            database.open(self.path, None, db.DB_UNKNOWN, db.DB_RDONLY | db.DB_NOMMAP)
        except db.DBError as error:
            database.close()
            raise MapError(f"{self.path}: {_reason(error)}") from None
        self._database = database

    def _fetch(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._database.get(key)
        except db.DBError as error:
            self.close()
            raise MapError(f"{self.path}: {_reason(error)}") from None
        return value

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _reason(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)
