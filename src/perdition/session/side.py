"""One peer's end: a non-blocking socket, TLS when asked for, and the grammar that reads it.

A side sits directly on the loop's readiness callbacks; there is no transport, task or future.
It reads into its grammar, sends what the grammar answers, and passes events to `on_event` and
ends to `on_lost`. It knows no protocol and takes no decision. In a large batch of events it sends
behind the batch.
Invariant: bytes leave in the order in which they were given, and none is lost at `release`.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from perdition.errors import PeerGone, PerditionError, WireError
from perdition.session.poller import Poller
from perdition.tls_socket import WANTS, TlsSocket

READ_SIZE = 16384  # a whole TLS record, so that nothing stays behind in OpenSSL's buffer
_BEGUN = (0, errno.EINPROGRESS)
_GLANCE = 470  # bytes; room for more costs more than to ask twice where there is more
HEADER_SIZE = 4096  # bytes looked at while a header is awaited

Where = tuple[str, int] | tuple[str, int, int, int]  # as connect(2) takes it


class Grammar(Protocol):
    """What a side needs of a `Front` or a `Back`."""

    out: bytes  # what `take` would return

    def receive(self, data: bytes) -> Any:
        """Take bytes, return an event or None."""

    def take(self) -> bytes:
        """Return what is to be sent."""

    @property
    def full(self) -> bool:
        """Whether it holds as much unread as it may."""


G = TypeVar("G", bound=Grammar)


class Side(Generic[G]):
    """A peer before the relay; `sock` is the plain or the TLS socket."""

    __slots__ = (
        "backlog", "ended", "fd", "grammar", "on_event", "on_lost", "poller", "reading", "sock",
    )  # fmt: skip

    def __init__(
        self,
        poller: Poller,
        sock: socket.SocketType,
        on_event: Callable[[Any], None],
        on_lost: Callable[[PerditionError], None],
    ) -> None:
        self.poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.on_event = on_event
        self.on_lost = on_lost
        self.grammar: G = None  # type: ignore[assignment] # until there is one to read what comes
        self.backlog = b""  # what the socket was not offered yet, or did not take
        self.ended = False  # the peer has said that it sends no more
        self.reading = False

    # -- reading ----------------------------------------------------------------------------

    def resume(self) -> None:
        """Read when there is something to read."""
        if not self.reading and not self.ended:
            self.reading = True
            self.poller.add_reader(self.fd, self._readable)

    def pause(self) -> None:
        """Leave what comes in the kernel's buffers."""
        if self.reading:
            self.reading = False
            self.poller.remove_reader(self.fd)

    def await_header(self, size: Callable[[bytes], int]) -> None:
        """Have the bytes of a header, and no byte behind it, as the next event.

        `size` says of the bytes so far how many the header has, 0 when it can't tell yet; its
        WireError loses the peer.
        """
        self.reading = True
        self.poller.add_reader(self.fd, partial(self._header_readable, size, b""))

    def _header_readable(self, size: Callable[[bytes], int], header: bytes) -> None:
        try:
            seen = self.sock.recv(HEADER_SIZE, socket.MSG_PEEK)
            if not seen:
                raise ConnectionAbortedError(errno.ECONNABORTED, "connection closed")
            whole = size(header + seen)
            taken = whole - len(header) if whole else len(seen)
            header += self.sock.recv(taken)
        except WANTS:
            return
        except OSError as error:
            self._lose(gone(error))
        except WireError as error:
            self._lose(error)
        else:
            if whole:
                self.pause()
                self.on_event(header)
            else:
                self.poller.add_reader(self.fd, partial(self._header_readable, size, header))

    def _readable(self) -> None:
        try:
            data = said(self.sock)
        except WANTS:
            return
        except OSError as error:
            self.failed(error)
            return
        self.hear(data)

    def failed(self, error: OSError) -> None:
        """Reading from the peer gave this error."""
        # Not connected: it begins to behind this batch, and its number was another's in it.
        if error.errno != errno.ENOTCONN:
            self._lose(gone(error))

    def hear(self, data: bytes) -> None:
        """The peer has sent `data`; nothing: its end."""
        if not data:
            self.pause()
            self.ended = True
            self.on_lost(PeerGone("connection closed"))
            return
        grammar = self.grammar
        try:
            event = grammar.receive(data)
        except WireError as error:
            self._lose(error)
            return
        if grammar.out:
            self.send(grammar.take())
        if event is not None:
            self.on_event(event)
        elif grammar.full:
            self.pause()

    def _lose(self, error: PerditionError) -> None:
        self.close()
        self.on_lost(error)

    # -- writing ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send `data` after what waits already; it may be empty. A lost peer shows on reading."""
        if not data or self.fd < 0:
            return
        if self.backlog:
            self.backlog += data
            return
        self.backlog = data
        if self.poller.crowded:
            self.poller.later(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        if self.backlog:
            self.backlog = untaken(self.sock, self.backlog)
            if self.backlog:
                self.poller.add_writer(self.fd, self._writable)

    def _writable(self) -> None:
        self.poller.remove_writer(self.fd)
        self._flush()

    def connect(self, where: Where) -> None:
        """Begin to connect, behind the batch under way; `on_lost` says why there is no way."""
        self.poller.later(partial(self._connect, where))

    def _connect(self, where: Where) -> None:
        if self.fd >= 0 and (error := begun(self.sock, where)) is not None:
            self._lose(error)

    def when_connected(self) -> None:
        """Tell by `on_event(None)` when the connection is there, by `on_lost` why it is not."""
        self.poller.add_writer(self.fd, self._connected)

    def _connected(self) -> None:
        try:
            self.sock.getpeername()
        except OSError:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._lose(gone(OSError(code, os.strerror(code))))
            return
        self.poller.remove_writer(self.fd)
        self.on_event(None)

    # -- TLS --------------------------------------------------------------------------------

    def start_tls(
        self, context: ssl.SSLContext | None, server_name: str | None, *, server: bool
    ) -> None:
        """Start the handshake; `on_event` gets the TlsSocket at its end, `on_lost` its failure.

        Raises PeerGone when what comes ahead of it can't be sent.
        """
        self.pause()
        if self.backlog:
            self.poller.remove_writer(self.fd)
            early = bytes(self.backlog)
            self.backlog = b""
            try:
                sent = self.sock.send(early)
            except WANTS:
                sent = 0
            except OSError as error:
                raise gone(error) from None
            if sent < len(early):
                raise PeerGone("does not read what comes ahead of TLS")
        assert context is not None
        self.sock = TlsSocket(self.sock, context, server_name, server=server)
        if server:
            # Of its two steps this is the dear one, and nobody is in the middle of anything.
            self.poller.add_patient_reader(self.fd, self._shake_first)
            self.reading = True
        else:
            # Not at once: the peer may be so quick that the handshake ends within the call.
            self.poller.add_writer(self.fd, self._shake)

    def _shake_first(self) -> None:
        """Answer a client's hello."""
        self._shake(self._shake_held)

    def _shake_held(self) -> None:
        """Most likely the last step: its ticket is one packet with the greeting behind it."""
        self._hold(True)
        self._shake(self._shake_held)
        self.poller.later(partial(self._hold, False))  # behind the greeting

    def _hold(self, on: bool) -> None:
        if self.fd >= 0:
            self.sock.hold(on)  # type: ignore[attr-defined] # it is a TlsSocket

    def _shake(self, then: Callable[[], None] | None = None) -> None:
        """Go on with the handshake; by `then` when the peer has said more."""
        if self.fd < 0:
            return  # closed by a neighbour in the batch
        try:
            self.sock.tls.do_handshake()  # type: ignore[attr-defined] # it is a TlsSocket
        except ssl.SSLWantReadError:
            self.poller.remove_writer(self.fd)
            self.reading = True
            self.poller.add_reader(self.fd, then or self._shake)
            return
        except ssl.SSLWantWriteError:
            self.poller.add_writer(self.fd, self._shake)
            return
        except (OSError, ValueError) as error:
            self._lose(gone(error))
            return
        self.poller.remove_writer(self.fd)
        self.poller.add_reader(self.fd, self._readable)
        self.reading = True
        self.on_event(self.sock)

    # -- the end ----------------------------------------------------------------------------

    def release(self) -> bytes:
        """Let go of the socket and of what it has not taken; the relay replaces the callback."""
        backlog = self.backlog
        if backlog:
            self.backlog = b""
            self.poller.remove_writer(self.fd)
        return backlog

    def close(self, drain: int = 0) -> None:
        """Close the socket at once, politely where TLS is up; may be called twice.

        Up to `drain` bytes that lie unread are thrown away first: with them the kernel would
        answer the peer with a reset, which may overtake our last word.
        """
        if self.fd < 0:
            return
        if self.backlog:
            self._flush()
            self.backlog = b""
        self.poller.forget(self.fd)
        self.fd = -1
        if drain and not self.ended:
            self._drain(drain)
        self.sock.close()
        self.grammar = None  # type: ignore[assignment] # no cycle is left

    def _drain(self, size: int) -> None:
        sock = self.sock
        try:
            if isinstance(sock, TlsSocket):
                sock.unwrap()
        except (OSError, ValueError):
            pass  # the peer need not answer a close_notify
        try:
            socket.SocketType.shutdown(sock, socket.SHUT_WR)
            socket.SocketType.recv(sock, size)
        except OSError:
            pass  # nothing there


def begun(sock: socket.SocketType, where: Where) -> PeerGone | None:
    """Begin to connect; why there is no way."""
    code = sock.connect_ex(where)
    return None if code in _BEGUN else PeerGone(os.strerror(code), unreachable=True)


def said(sock: socket.SocketType) -> bytes:
    """What a peer has said; nothing: its end. Raises OSError, one of WANTS if there is neither."""
    data = sock.recv(_GLANCE)
    if len(data) == _GLANCE:
        try:
            data += sock.recv(READ_SIZE)
        except OSError:
            pass  # nothing more is there, or it fails: whoever reads again will hear of it
    return data


def untaken(sock: socket.SocketType, data: bytes) -> bytes:
    """Send `data`, but for what is returned: it has to wait."""
    try:
        return data[sock.send(data) :]
    except WANTS:
        return data
    except OSError:
        return b""  # the peer is gone: reading tells, with the kernel's reason


# What connect(2) says of a server that is not there.
_UNREACHABLE = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN,
     errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL)
)  # fmt: skip


def gone(error: Exception) -> PeerGone:
    """Return what the failure of a socket means."""
    # The errno of a TLS error is OpenSSL's own, from a numbering of its own.
    code = 0 if isinstance(error, ssl.SSLError) else getattr(error, "errno", 0)
    return PeerGone(reason_of(error), unreachable=code in _UNREACHABLE)


def reason_of(error: Exception) -> str:
    """Return why a socket failed, in words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "connection closed"  # OpenSSL has several names for it, by the moment it came
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error.args[-1]).replace("_", " ").lower()
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
