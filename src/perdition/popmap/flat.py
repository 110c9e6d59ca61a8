"""The flat text file itself, ``key:value`` a line, read again by itself when it changes.

The source of makegdbm and makebdb, used without them: split at the first colon, the first of equal
keys wins, blank lines and lines that begin with ``#`` are skipped. A line that is neither is named
in an error, and the old content stays in force.
"""

from __future__ import annotations

import os

from perdition.errors import MapError
from perdition.popmap.base import Popmap, Query, Stale, route_of
from perdition.route import Route

DEFAULT = "/etc/perdition/popmap"
FILE_LIMIT = 1 << 30  # bytes


class Map(Popmap):
    """``map_library_opt``: the file's path."""

    def __init__(self, option: str) -> None:
        self.path = option or DEFAULT
        self._entries: dict[bytes, bytes] = {}
        self._seen: tuple[int, int, int] | None = None  # the file that was read
        self._bad: tuple[int, int, int] | None = None  # the file that could not be

    def open(self) -> None:
        """Read the file."""
        self._read()

    def refresh(self) -> None:
        """Read the file, which has changed."""
        try:
            self._read()
        except MapError:
            self._bad = self._mark()
            raise

    def lookup(self, query: Query) -> Route | None:
        mark = self._mark()
        if mark not in (self._seen, self._bad):
            raise Stale
        value = self._entries.get(query.key)
        return None if value is None else route_of(value, query.delimiter)

    def _mark(self) -> tuple[int, int, int]:
        try:
            stat = os.stat(self.path)
        except OSError as error:
            return error.errno or 0, 0, 0
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                stat = os.fstat(file.fileno())
                lines = file.read(FILE_LIMIT).split(b"\n")
        except OSError as error:
            raise MapError(f"{self.path}: {error.strerror}") from None
        entries: dict[bytes, bytes] = {}
        for number, line in enumerate(lines, 1):
            if line.startswith(b"#"):
                continue
            key, colon, value = line.rstrip(b"\r").partition(b":")
            if key and colon:
                entries.setdefault(key, value)
            elif line.strip():
                raise MapError(f"{self.path}:{number}: not KEY:VALUE")
        self._entries = entries
        self._seen, self._bad = (stat.st_ino, stat.st_size, stat.st_mtime_ns), None
