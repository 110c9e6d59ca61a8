"""Postfix's look-up services: socketmap_table(5) and tcp_table(5).

socketmap:inet:HOST:PORT:NAME    socketmap:unix:PATH:NAME    tcp:HOST:PORT
"""

from __future__ import annotations

import os
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
        self._name: bytes | None = None  # of a socketmap
        if kind == "tcp":
            self.address = address_of(rest)
        elif kind == "socketmap":
            family, _, where = rest.partition(":")
            where, _, name = where.rpartition(":")
            at_path = where.startswith("/")
            if family != ("unix" if at_path else "inet") or not re.fullmatch(r"\S+", name):
                raise MapError("a socketmap is at inet:HOST:PORT:NAME or unix:PATH:NAME")
            self.address, self._name = address_of(where), os.fsencode(name)
        else:
            raise MapError("neither socketmap:... nor tcp:...")

    def _exchange(self, key: bytes) -> bytes | None:
        return self._by_table(key) if self._name is None else self._by_socketmap(self._name, key)

    def _by_socketmap(self, name: bytes, key: bytes) -> bytes | None:
        request = name + b" " + key
        self._send(b"%d:%s," % (len(request), request))
        size = self._until(b":")
        if not re.fullmatch(rb"\d{1,6}", size) or int(size) > ANSWER_LIMIT:
            raise MapError(f"{self._where}: no netstring")
        answer, end = self._bytes(int(size)), self._bytes(1)
        if end != b",":
            raise MapError(f"{self._where}: no netstring")
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
