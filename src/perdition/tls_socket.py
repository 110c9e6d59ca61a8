"""A connected TCP socket under TLS: what `ssl.SSLSocket` is, without what a proxy would pay for it.

SSLSocket asks the kernel again what its maker knows, and leads each read and write through three
functions of Python. Here it is one, around the same object of C. The standard library has no open
door to that object: `SSLContext._wrap_socket` is its own, the same in Python 3.8 to 3.14.
Invariant: nothing is read or written past TLS once it is there.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

# What a socket, plain or under TLS, raises that would have to wait.
WANTS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TCP, _CORK = socket.IPPROTO_TCP, socket.TCP_CORK
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK  # spares asking for what it is already


class TlsSocket(socket.SocketType):
    """Non-blocking; every method raises what that of SSLSocket raises."""

    __slots__ = ("__weakref__", "tls")

    def __init__(
        self,
        plain: socket.SocketType,
        context: ssl.SSLContext,
        server_name: str | None,
        *,
        server: bool,
    ) -> None:
        """Take the connection of `plain`, which is empty then; the handshake is still to be made.

        `server_name` is what the certificate of a server has to be for.
        """
        super().__init__(plain.family, _STREAM, 0, plain.detach())
        name = server_name.encode("idna").decode("ascii") if server_name else None
        self.tls: Any = context._wrap_socket(self, server, name)  # type: ignore[attr-defined]

    @property
    def context(self) -> ssl.SSLContext:
        """The one in use; that of the name that the client asked for replaces the first."""
        return self.tls.context  # type: ignore[no-any-return]

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self.tls.context = context

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        try:
            return self.tls.read(size)  # type: ignore[no-any-return]
        except ssl.SSLEOFError:
            return b""  # an end without a farewell, as most clients go

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0, /) -> int:
        """Fill `buffer` as far as `size`; return how many bytes came, 0 at the end."""
        try:
            return self.tls.read(size or len(buffer), buffer)  # type: ignore[no-any-return]
        except ssl.SSLEOFError:
            return 0

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Return how many bytes went; with MSG_MORE they are held until the end."""
        if flags:
            self.hold()
        return self.tls.write(data)  # type: ignore[no-any-return]

    def hold(self, on: bool = True) -> None:
        """Have the kernel wait for more before it sends less than a packet: 0.2 s at most."""
        try:
            self.setsockopt(_TCP, _CORK, on)
        except OSError:
            pass  # what inetd gives us need not be TCP

    def unwrap(self) -> None:
        """Say that no more comes; SSLWantReadError: said, and the peer has not said it yet."""
        self.tls.shutdown()

    def close(self) -> None:
        """Say farewell, if TLS is up and the socket takes it, and hang up; may be called twice."""
        tls, self.tls = self.tls, None
        if tls is not None:
            self.hold()  # the farewell is one packet with the end
            try:
                tls.shutdown()
            except (OSError, ValueError):
                pass  # gone already, not there yet, or the peer has not said farewell
        super().close()
