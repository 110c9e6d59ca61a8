"""Berkeley DB's hash files, as makebdb writes them: read here, written by the library's bindings.

The library is not asked for look-ups because a damaged file can make it loop for ever or crash. The
format has been the same since Berkeley DB 4: a first page with the number of buckets, then pages of
keys and values in turn, found by their bucket; a full page is followed by another.
Invariant: a look-up reads a bounded number of pages, and a page is what it says of itself or the
file is damaged.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from perdition.errors import MapError
from perdition.popmap.kept import KeptFile

_HASH = 0x061561  # the magic number, in the writer's byte order
_VERSIONS = range(5, 11)  # with one and the same hash function
_META = struct.Struct("=8xIIII4BII12xI20x6I32I")
_PAGE = struct.Struct("=8xIIIHHBB")
_BLANK, _OLD_PAGE, _OVERFLOW, _SORTED_PAGE = 0, 2, 7, 13  # types of pages
_PLAIN, _ELSEWHERE = 1, 3  # types of items
_CHAIN = 1000  # pages of one bucket, or of one value
_VALUE_LIMIT = 65_536  # bytes
_DRIVER = "berkeleydb or bsddb3 (perdition[bdb]; Debian: python3-bsddb3)"


class _Head(NamedTuple):
    """What the first page says."""

    order: str  # of struct: the writer's bytes
    size: int  # bytes of a page
    last: int  # number of the last page
    max_bucket: int
    high_mask: int
    low_mask: int
    spares: tuple[int, ...]  # what is added to a bucket's number, by its logarithm

    def page_of(self, key: bytes) -> int:
        """The first page of a key's bucket."""
        digest = 0
        for byte in key:
            digest = (digest * 16_777_619 & 0xFFFFFFFF) ^ byte
        bucket = digest & self.high_mask
        if bucket > self.max_bucket:
            bucket &= self.low_mask
        return bucket + self.spares[bucket.bit_length()]


class Map(KeptFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.bdb.db"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._fd = -1
        self._head: _Head

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._head = self._read_head()
        except MapError:
            self._close()
            raise

    def _read_head(self) -> _Head:
        data = os.pread(self._fd, 512, 0)
        if len(data) < 512:
            raise MapError(f"{self.path}: no Berkeley DB")
        order = next((o for o in "<>" if struct.unpack_from(f"{o}I", data, 12)[0] == _HASH), "")
        if not order:
            raise MapError(f"{self.path}: no hash file of Berkeley DB")
        own, _, version, size, encrypted, _, flags, _, _, last, kind, *numbers = struct.unpack_from(
            order + _META.format[1:], data
        )
        max_bucket, high, low, _, _, _, *spares = numbers
        if version not in _VERSIONS or encrypted or flags or kind:
            raise MapError(f"{self.path}: a Berkeley DB of a kind that makebdb does not write")
        if (
            own
            or not (512 <= size <= 65_536 and size & (size - 1) == 0)
            or not (
                low < high
                and high & (high + 1) == low & (low + 1) == 0
                and low <= max_bucket <= high
            )
        ):
            raise MapError(f"{self.path}: is damaged")
        if size * (last + 1) > os.fstat(self._fd).st_size:
            raise MapError(f"{self.path}: is cut short, or being written")
        return _Head(order, size, last, max_bucket, high, low, tuple(spares))

    def _fetch(self, key: bytes) -> bytes | None:
        try:
            number = self._head.page_of(key)
            for _ in range(_CHAIN):
                page, entries, number = self._page(number)
                if entries:
                    value = self._value(page, entries, key)
                    if value is not None:
                        return value
                if not number:
                    return None
            raise self._damaged()
        except (OSError, IndexError) as error:
            self.close()
            raise MapError(f"{self.path}: {getattr(error, 'strerror', 'is damaged')}") from None
        except MapError:
            self.close()
            raise

    def _page(self, number: int, kinds: tuple[int, ...] = (_SORTED_PAGE, _OLD_PAGE)) -> Any:
        """A page, how much is in it, and the number of the next, 0 for none."""
        head = self._head
        if not 0 < number <= head.last:
            raise self._damaged()
        page = os.pread(self._fd, head.size, number * head.size)
        if len(page) != head.size:
            raise self._damaged()
        own, _, following, entries, free, _, kind = struct.unpack_from(
            head.order + _PAGE.format[1:], page
        )
        if kind == _BLANK and not own and not entries and _BLANK not in kinds:
            return page, 0, 0  # a bucket that was made with others and never used
        if own != number or kind not in kinds or following > head.last:
            raise self._damaged()
        return page, free if kind == _OVERFLOW else entries, following

    def _value(self, page: bytes, entries: int, key: bytes) -> bytes | None:
        """The value of a key in a page."""
        order, size = self._head.order, self._head.size
        if entries & 1 or _PAGE.size + 2 * entries > size:
            raise self._damaged()
        places = struct.unpack_from(f"{order}{entries}H", page, _PAGE.size)
        if list(places) != sorted(places, reverse=True) or not (
            _PAGE.size + 2 * entries <= places[-1] and places[0] < size
        ):
            raise self._damaged()
        ends = (size, *places[:-1])
        for at in self._places_of(key, page, places, ends):
            return self._item(page[places[at + 1] : ends[at + 1]])
        return None

    def _places_of(
        self, key: bytes, page: bytes, places: tuple[int, ...], ends: tuple[int, ...]
    ) -> Iterator[int]:
        """Where in a page the key is."""
        item = b"%c%s" % (_PLAIN, key)
        place = page.find(item, places[-1])
        while place >= 0:
            if place in places:
                at = places.index(place)
                if at % 2 == 0 and ends[at] - place == len(item):
                    yield at
            place = page.find(item, place + 1)
        if len(key) > self._head.size // 4:  # smaller ones are never elsewhere
            for at in range(0, len(places), 2):
                item = page[places[at] : ends[at]]
                if item[0] == _ELSEWHERE and self._elsewhere(item, len(key)) == key:
                    yield at

    def _item(self, item: bytes) -> bytes:
        if item[0] == _PLAIN:
            return item[1:]
        if item[0] == _ELSEWHERE:
            return self._elsewhere(item, _VALUE_LIMIT)
        raise self._damaged()

    def _elsewhere(self, item: bytes, limit: int) -> bytes:
        """What is too large for its page, in pages of its own; cut at `limit`."""
        if len(item) != 12:
            raise self._damaged()
        number, length = struct.unpack_from(f"{self._head.order}II", item, 4)
        found = b""
        while number and len(found) < min(limit + 1, length):
            page, count, number = self._page(number, (_OVERFLOW,))
            if not 0 < count <= len(page) - _PAGE.size:
                raise self._damaged()
            found += page[_PAGE.size : _PAGE.size + count]
        return found[:length]

    def _damaged(self) -> MapError:
        return MapError(f"{self.path}: is damaged")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# -- for makebdb --------------------------------------------------------------------------------


def _library() -> Any:
    try:
        from berkeleydb import db  # noqa: PLC0415 - look-ups do without it
    except ImportError:
        try:
            from bsddb3 import db  # noqa: PLC0415
        except ImportError as error:
            raise MapError(f"a library is missing: {_DRIVER}: {error}") from None
    return db


def _reason(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)


def write(path: str, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Make the file `path`; gives the keys that came twice, of which the first counts."""
    db = _library()
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
    db = _library()
    database = db.DB()
    try:
        database.open(path, None, db.DB_UNKNOWN, db.DB_RDONLY)
        cursor = database.cursor()
        while (pair := cursor.next()) is not None:
            yield pair
        cursor.close()
    except (db.DBError, TypeError, ValueError) as error:
        raise MapError(f"{path}: {_reason(error)}") from None
    finally:
        try:
            database.close()
        except db.DBError:
            pass  # of a damaged file it says so again
