"""D. J. Bernstein's constant database, read with pread(2); the format is public (cdb.cr.yp.to).

Two reads a look-up. A cdb is made aside and renamed, so the file that is open never changes.
"""

from __future__ import annotations

import os
import struct

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

_PAIR = struct.Struct("<II")
_VALUE_LIMIT = 65_536  # bytes
_SLOT_LIMIT = 1 << 26  # in one of 256 tables, of which half are empty; 4 GB hold no more
_PROBE_LIMIT = 10_000  # slots tried for one key; a table that is half empty needs a few


class Map(KeptFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.cdb"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if not self._is_whole(os.fstat(self._fd).st_size):
            self._close()
            raise MapError(f"{self.path}: not a cdb, or damaged")

    def _is_whole(self, size: int) -> bool:
        """Whether the 256 tables are behind one another and the last ends with the file."""
        head = os.pread(self._fd, 2048, 0)
        if len(head) < 2048:
            return False
        end = 0
        for at, slots in _PAIR.iter_unpack(head):
            if slots:
                if end and at != end:
                    return False
                end = at + slots * 8
        return end in (0, size)

    def _fetch(self, key: bytes) -> bytes | None:
        try:
            return self._find(key)
        except OSError as error:
            self.close()
            raise MapError(f"{self.path}: {error.strerror}") from None

    def _find(self, key: bytes) -> bytes | None:
        digest = 5381
        for byte in key:
            digest = (digest * 33 & 0xFFFFFFFF) ^ byte
        table, slots = self._pair(digest % 256 * 8)
        if slots > _SLOT_LIMIT:
            raise MapError(f"{self.path}: not a cdb")
        for turn in range(min(slots, _PROBE_LIMIT)):
            slot = (digest // 256 + turn) % slots
            found, at = self._pair(table + slot * 8)
            if not at:
                return None
            if found == digest:
                key_size, value_size = self._pair(at)
                if key_size == len(key) and self._read(at + 8, key_size) == key:
                    return self._read(at + 8 + key_size, min(value_size, _VALUE_LIMIT))
        if slots > _PROBE_LIMIT:
            raise MapError(f"{self.path}: not a cdb")
        return None

    def _pair(self, at: int) -> tuple[int, int]:
        first, second = _PAIR.unpack(self._read(at, 8))
        return first, second

    def _read(self, at: int, size: int) -> bytes:
        data = os.pread(self._fd, size, at)
        if len(data) != size:
            raise MapError(f"{self.path}: ends too early")
        return data

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
