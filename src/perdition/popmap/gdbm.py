"""GNU dbm, the default of Perdition 2.2: a file made by makegdbm.

By the C library itself: Python's module for it maps the file into memory, and a file that is then
truncated by its writer would end the process.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_void_p
from typing import ClassVar

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

_READER, _NOLOCK, _NOMMAP = 0, 0x40, 0x80  # gdbm.h
_NOT_FOUND = 15
_KEY_AND_VALUE_LIMIT = 65_536  # bytes


class _Datum(ctypes.Structure):
    _fields_: ClassVar = [("text", c_void_p), ("size", c_int)]


try:
    _gdbm = ctypes.CDLL("libgdbm.so.6")
except OSError as error:
    raise ImportError(str(error)) from None
_gdbm.gdbm_open.restype = c_void_p
_gdbm.gdbm_open.argtypes = (c_char_p, c_int, c_int, c_int, c_void_p)
_gdbm.gdbm_fetch.restype = _Datum
_gdbm.gdbm_fetch.argtypes = (c_void_p, _Datum)
_gdbm.gdbm_close.argtypes = (c_void_p,)
_gdbm.gdbm_strerror.restype = c_char_p
_gdbm.gdbm_errno_location.restype = POINTER(c_int)
_free = ctypes.CDLL(None).free
_free.argtypes = (c_void_p,)


class Map(KeptFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.gdbm.db"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._handle: int | None = None

    def _open(self) -> None:
        flags = _READER | _NOLOCK | _NOMMAP
        self._handle = _gdbm.gdbm_open(
            self.path.encode(errors="surrogateescape"), 0, flags, 0, None
        )
        if not self._handle:
            raise MapError(f"{self.path}: {_reason()}")

    def _fetch(self, key: bytes) -> bytes | None:
        buffer = ctypes.create_string_buffer(key, len(key))
        datum = _Datum(ctypes.cast(buffer, c_void_p), len(key))
        found = _gdbm.gdbm_fetch(self._handle, datum)
        if found.text is None:
            if _gdbm.gdbm_errno_location()[0] == _NOT_FOUND:
                return None
            self.close()
            raise MapError(f"{self.path}: {_reason()}")
        try:
            return ctypes.string_at(found.text, min(found.size, _KEY_AND_VALUE_LIMIT))
        finally:
            _free(found.text)

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            _gdbm.gdbm_close(handle)


def _reason() -> str:
    return str(_gdbm.gdbm_strerror(_gdbm.gdbm_errno_location()[0]).decode())
