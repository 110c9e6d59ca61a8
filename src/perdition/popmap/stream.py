"""What the maps that talk over a socket share: a kept connection, made anew once when it has died.

Invariant: every wait has an end, every answer a bound.
"""

from __future__ import annotations

import re
import socket
import time
from abc import abstractmethod

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, is_ready, route_of
from perdition.route import Route

TIMEOUT = 5  # seconds to connect, and for a question with its answer
ANSWER_LIMIT = 65_536  # bytes


class StreamMap(Popmap):
    """A map behind a TCP or UNIX socket; who inherits says what is spoken."""

    waits = True
    address: tuple[str, int] | str  # a string is the path of a UNIX socket

    def __init__(self, option: str) -> None:
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._until_when = 0.0

    @abstractmethod
    def _exchange(self, key: bytes) -> bytes | None:
        """Ask and return the value; OSError when the connection fails, MapError on nonsense."""

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT:
            return None
        value = self._ask(query.key)
        return None if value is None else route_of(value, query.delimiter)

    def _ask(self, key: bytes) -> bytes | None:
        try:
            if self._sock is not None and not self._is_quiet():
                self.close()
            if self._sock is not None:
                try:
                    return self._question(key)
                except (ConnectionError, EOFError):
                    self.close()  # it has died while nobody asked: make it anew
            self._connect()
            return self._question(key)
        except (OSError, EOFError) as error:
            self.close()
            why = getattr(error, "strerror", None) or str(error) or "connection closed"
            raise MapError(f"{self._where}: {why}") from None
        except MapError:
            self.close()
            raise

    def _question(self, key: bytes) -> bytes | None:
        self._until_when = time.monotonic() + TIMEOUT
        return self._exchange(key)

    def _is_quiet(self) -> bool:
        """Whether nothing, not even the end, has come unasked: it would answer the next key."""
        assert self._sock is not None
        return not self._buffer and not is_ready(self._sock, 0)

    @property
    def _where(self) -> str:
        if isinstance(self.address, str):
            return self.address
        return f"{self.address[0]}:{self.address[1]}"

    def _connect(self) -> None:
        if isinstance(self.address, str):
            self._sock = socket.socket(socket.AF_UNIX)
            self._sock.settimeout(TIMEOUT)
            self._sock.connect(self.address)
        else:
            self._sock = socket.create_connection(self.address, TIMEOUT)
        self._buffer = b""

    def _send(self, data: bytes) -> None:
        assert self._sock is not None
        self._sock.settimeout(TIMEOUT)
        self._sock.sendall(data)

    def _until(self, mark: bytes) -> bytes:
        """Return what comes up to `mark`, without it."""
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        while len(self._buffer) < count:
            self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _more(self) -> None:
        assert self._sock is not None
        if len(self._buffer) > ANSWER_LIMIT:
            raise MapError(f"{self._where}: an answer of more than {ANSWER_LIMIT} bytes")
        left = self._until_when - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        data = self._sock.recv(4096)
        if not data:
            raise EOFError
        self._buffer += data

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def address_of(text: str, default_port: int = 0) -> tuple[str, int] | str:
    """Read ``HOST:PORT`` or the path of a socket; MapError when it is neither."""
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    if not host and default_port:
        host, port = text, str(default_port)
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise MapError(f"neither HOST:PORT nor the path of a socket: {text!r}")
    return host.strip("[]"), int(port)
