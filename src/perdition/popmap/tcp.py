"""Postfix's look-up services: socketmap_table(5) and tcp_table(5).

socketmap:inet:HOST:PORT:NAME    socketmap:unix:PATH:NAME    tcp:HOST:PORT
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from perdition.errors import MapError
from perdition.popmap.stream import ANSWER_LIMIT, StreamMap, address_of

DEFAULT = "socketmap:unix:/run/perdition/popmap:popmap"


class Map(StreamMap):
    """``map_library_opt``: as above."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        kind, _, rest = (option or DEFAULT).partition(":")
        self._name = b""
        if kind == "tcp":
            self.address = address_of(rest)
        elif kind == "socketmap":
            family, _, where = rest.partition(":")
            where, _, name = where.rpartition(":")
            if family not in ("inet", "unix") or (family == "unix") != where.startswith("/"):
                raise MapError("a socketmap is at inet:HOST:PORT:NAME or unix:PATH:NAME")
            self.address, self._name = address_of(where), name.encode()
        else:
            raise MapError("neither socketmap:... nor tcp:...")

    def _exchange(self, key: bytes) -> bytes | None:
        return self._by_socketmap(key) if self._name else self._by_table(key)

    def _by_socketmap(self, key: bytes) -> bytes | None:
        request = self._name + b" " + key
        self._send(b"%d:%s," % (len(request), request))
        size = self._until(b":")
        if not re.fullmatch(rb"\d{1,6}", size) or int(size) > ANSWER_LIMIT:
            raise MapError(f"{self._where}: no netstring")
        answer = self._bytes(int(size) + 1)[:-1]
        word, _, value = answer.partition(b" ")
        if word == b"OK":
            return value
        if word == b"NOTFOUND":
            return None
        raise MapError(f"{self._where}: {answer[:200].decode('utf-8', 'replace')}")

    def _by_table(self, key: bytes) -> bytes | None:
        self._send(b"get %s\n" % quote_from_bytes(key).encode())
        answer = self._until(b"\n")
        code, _, value = answer.partition(b" ")
        if code == b"200":
            return unquote_to_bytes(value.strip())
        if code == b"500":
            return None
        raise MapError(f"{self._where}: {answer[:200].decode('utf-8', 'replace')}")
