"""A client or server of a test that talks in lines."""

from __future__ import annotations

import socket
import ssl


class Lines:
    """A blocking connection with its reader. A context that ends with it."""

    def __init__(self, sock: socket.socket, seconds: float = 10.0) -> None:
        sock.settimeout(seconds)
        self.sock = sock
        self._reader = sock.makefile("rb")

    @classmethod
    def to(cls, port: int, context: ssl.SSLContext | None = None) -> Lines:
        """Connect to a port of 127.0.0.1, with TLS if there is a context."""
        sock = socket.create_connection(("127.0.0.1", port), 10)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname="localhost")
        return cls(sock)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self.sock.close()

    def say(self, text: str | bytes) -> None:
        """Send a line."""
        self.sock.sendall((text.encode() if isinstance(text, str) else text) + b"\r\n")

    def hear(self) -> str:
        """Return the next line without its end; empty at the end of the stream."""
        return self._reader.readline().decode("utf-8", "backslashreplace").rstrip("\r\n")

    def ask(self, text: str | bytes) -> list[str]:
        """Send a tagged command; return the lines up to its tagged reply."""
        self.say(text)
        tag = (text.encode() if isinstance(text, str) else text).split(b" ")[0].decode()
        lines = [self.hear()]
        while lines[-1] and not lines[-1].startswith(f"{tag} "):
            lines.append(self.hear())
        return lines

    def read(self, count: int) -> bytes:
        """Return so many bytes, or what there is to the end of the stream."""
        return self._reader.read(count)

    def up_to(self, *starts: bytes) -> list[bytes]:
        """Return the lines up to one that begins so, as they came."""
        lines: list[bytes] = []
        while not (lines and lines[-1].startswith(starts)):
            line = self._reader.readline()
            assert line, lines[-3:]
            lines.append(line)
        return lines

    def rest(self) -> bytes:
        """Return all there is to the end of the stream."""
        return self._reader.read()
