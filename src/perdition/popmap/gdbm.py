"""GNU dbm, the default of Perdition 2.2: a file made by makegdbm.

By the C library itself: Python's module for it maps the file into memory, and a file that is then
truncated by its writer would end the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_void_p
from typing import ClassVar

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

_READER, _NOLOCK, _NOMMAP = 0, 0x40, 0x80  # gdbm.h
_NEW, _INSERT = 3, 0
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
_gdbm.gdbm_store.argtypes = (c_void_p, _Datum, _Datum, c_int)
_gdbm.gdbm_firstkey.restype = _gdbm.gdbm_nextkey.restype = _Datum
_gdbm.gdbm_firstkey.argtypes = (c_void_p,)
_gdbm.gdbm_nextkey.argtypes = (c_void_p, _Datum)
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
        value = _taken(_gdbm.gdbm_fetch(self._handle, _datum(key)))
        if value is None and _gdbm.gdbm_errno_location()[0] != _NOT_FOUND:
            self.close()
            raise MapError(f"{self.path}: {_reason()}")
        return value

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            _gdbm.gdbm_close(handle)


def _datum(text: bytes) -> _Datum:
    # The address is that of the bytes themselves, which the caller keeps for the call.
    return _Datum(ctypes.cast(c_char_p(text), c_void_p), len(text))


def _taken(datum: _Datum) -> bytes | None:
    """What the library allocated; None: nothing."""
    if datum.text is None:
        return None
    try:
        return ctypes.string_at(datum.text, min(datum.size, _KEY_AND_VALUE_LIMIT))
    finally:
        _free(datum.text)


def _reason() -> str:
    return str(_gdbm.gdbm_strerror(_gdbm.gdbm_errno_location()[0]).decode())


def write(path: str, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Make the file `path`; gives the keys that came twice, of which the first counts."""
    handle = _gdbm.gdbm_open(os.fsencode(path), 0, _NEW, 0o600, None)
    if not handle:
        raise MapError(f"{path}: {_reason()}")
    try:
        for key, value in pairs:
            code = _gdbm.gdbm_store(handle, _datum(key), _datum(value), _INSERT)
            if code > 0:
                yield key
            elif code < 0:
                raise MapError(f"{path}: {_reason()}")
    finally:
        _gdbm.gdbm_close(handle)


def entries(path: str) -> Iterator[tuple[bytes, bytes]]:
    """The pairs in the file `path`, in no order."""
    handle = _gdbm.gdbm_open(os.fsencode(path), 0, _READER, 0, None)
    if not handle:
        raise MapError(f"{path}: {_reason()}")
    try:
        key = _taken(_gdbm.gdbm_firstkey(handle))
        while key is not None:
            value = _taken(_gdbm.gdbm_fetch(handle, _datum(key)))
            # 2.2's tool writes both without a NUL, others may count one in.
            yield key.removesuffix(b"\0"), (value or b"").removesuffix(b"\0")
            key = _taken(_gdbm.gdbm_nextkey(handle, _datum(key)))
    finally:
        _gdbm.gdbm_close(handle)
