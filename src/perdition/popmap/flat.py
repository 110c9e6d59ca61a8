"""The flat text file itself, ``key:value`` a line, read again by itself when it changes.

The source of makegdbm and makebdb, used without them: split at the first colon, the first of equal
keys wins, blank lines and lines that begin with ``#`` are skipped. A line that is neither is named
in an error, and the old content stays in force.
"""

from __future__ import annotations

from perdition.errors import MapError
from perdition.popmap.base import Query, route_of
from perdition.popmap.watched import WatchedFile
from perdition.route import Route


class Map(WatchedFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._entries: dict[bytes, bytes] = {}

    def lookup(self, query: Query) -> Route | None:
        self._check()
        value = self._entries.get(query.key)
        return None if value is None else route_of(value, query.delimiter)

    def _read(self, content: bytes) -> None:
        entries: dict[bytes, bytes] = {}
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.startswith(b"#"):
                continue
            key, colon, value = line.rstrip(b"\r").partition(b":")
            if key and colon:
                entries.setdefault(key, value)
            elif line.strip():
                raise MapError(f"{self.path}:{number}: not KEY:VALUE")
        self._entries = entries
