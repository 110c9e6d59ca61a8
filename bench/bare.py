"""The least that a login can cost in Python: the dialogue of the bench with every word known ahead.

    bare.py PORT BACKEND_PORT [CERTIFICATE KEY]

It reads no command, looks nobody up, checks and counts nothing, writes no log and bears no fault.
What is left is what the kernel, OpenSSL and the interpreter take for the same events: no proxy in
Python can be cheaper. It is a floor, as HAProxy is, and not a proxy. Bytes are moved in the largest
pieces that are any use, what begins waits for what goes on, and what is said last is one packet
with the end, as with ours. It sends as it goes: its clients may wait longer than those of ours.
"""

import gc
import select
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

GREETING = b"* OK [CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE IDLE] ready\r\n"
LOGIN = b'x LOGIN "user" "password"\r\n'
ACCEPTED = b"a OK You are so in\r\n"
_SIZE = 16384  # a record of TLS
_STREAM, _NONBLOCK = socket.SOCK_STREAM, socket.SOCK_STREAM | socket.SOCK_NONBLOCK

_READ = select.EPOLLIN | select.EPOLLRDHUP  # both at once: with what is there the peer ends

poll = select.epoll()
callbacks: dict[int, Callable[[], None]] = {}
patient: dict[int, Callable[[], None]] = {}  # what has its turn when nothing else is there
ending = False  # whether the peer who is read says no more
buffer = memoryview(bytearray(64 * _SIZE))


class Socket(socket.SocketType):
    """The C type, with room for what OpenSSL needs."""

    __slots__ = ("__weakref__",)


def wait() -> None:
    """Nothing is read."""


class Session:
    """One client; each method is what is done when something comes in that state."""

    __slots__ = ("client", "client_fd", "read", "rest", "server", "server_fd", "tls", "write")

    def __init__(self, fd: int, context: ssl.SSLContext | None) -> None:
        self.client = Socket(socket.AF_INET, _STREAM, 0, fd)
        self.client.setblocking(False)
        self.client_fd = fd
        self.server: socket.SocketType | None = None
        self.tls: Any = None
        poll.register(fd, _READ)
        if context is None:
            self.read: Callable[..., Any] = self.client.recv
            self.write: Callable[..., Any] = self.client.send
            self.greet()
        else:
            self.tls = context._wrap_socket(self.client, True)  # type: ignore[attr-defined]
            self.read, self.write = self.tls.read, self.tls.write
            patient[fd] = self.shake

    def shake(self) -> None:
        if patient.pop(self.client_fd, None) is not None:
            callbacks[self.client_fd] = self.shake  # the second step is no beginning
            self.tls.do_handshake()
            self.greet()
            return
        self.hold(True)  # its ticket is one packet with the greeting
        try:
            self.tls.do_handshake()
            self.greet()
        finally:
            self.hold(False)

    def hold(self, on: bool) -> None:
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def greet(self) -> None:
        callbacks[self.client_fd] = self.connect
        self.write(GREETING)

    def connect(self) -> None:
        if not self.read(_SIZE):
            self.close()
            return
        self.server = socket.SocketType(socket.AF_INET, _NONBLOCK)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connect_ex(backend)
        self.server_fd = self.server.fileno()
        callbacks[self.server_fd] = self.log_in
        poll.register(self.server_fd, _READ)

    def log_in(self) -> None:
        assert self.server is not None
        self.server.recv(_SIZE)
        self.server.send(LOGIN)
        callbacks[self.server_fd] = self.accept

    def accept(self) -> None:
        assert self.server is not None
        self.server.recv(_SIZE)
        self.write(ACCEPTED)
        callbacks[self.client_fd] = self.from_client
        callbacks[self.server_fd] = self.from_server

    def from_client(self) -> None:
        assert self.server is not None
        got = self.client.recv_into(buffer) if self.tls is None else self.records()
        self.pass_on(got, self.client_fd, self.server_fd, self.server.send)

    def records(self) -> int:
        got: int = self.tls.read(_SIZE, buffer)
        last = got
        try:
            while last == _SIZE and got < len(buffer):
                last = self.tls.read(_SIZE, buffer[got:])
                got += last
        except ssl.SSLWantReadError:
            pass
        return got

    def from_server(self) -> None:
        assert self.server is not None
        got = self.server.recv_into(buffer)
        write = self.write
        if ending and self.tls is None:
            write = self.write_last
        elif ending:
            self.hold(True)
        self.pass_on(got, self.server_fd, self.client_fd, write)

    def write_last(self, data: memoryview) -> int:
        return self.client.send(data, socket.MSG_MORE)

    def pass_on(self, got: int, source: int, sink: int, write: Callable[..., int]) -> None:
        if not got:
            self.close()
            return
        try:
            sent = write(buffer[:got])
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        if sent == got:
            return
        self.rest = memoryview(bytes(buffer[sent:got]))
        before = callbacks[sink], callbacks[source]

        def go_on() -> None:
            self.rest = self.rest[write(self.rest) :]
            if not self.rest:
                callbacks[sink], callbacks[source] = before
                poll.modify(source, _READ)
                poll.modify(sink, _READ)

        callbacks[sink], callbacks[source] = go_on, wait
        poll.modify(source, 0)
        poll.modify(sink, select.EPOLLOUT)

    def close(self) -> None:
        patient.pop(self.client_fd, None)
        callbacks.pop(self.client_fd, None)
        if self.tls is not None:
            try:
                self.hold(True)
                self.tls.shutdown()
            except OSError:
                pass
        self.client.close()
        if self.server is not None:
            callbacks.pop(self.server_fd, None)
            self.server.close()


def serve(listening: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serves until the process ends."""
    global ending  # noqa: PLW0603 - one process, one loop

    def accept() -> None:
        for _ in range(32):
            fd, _ = listening._accept()  # type: ignore[attr-defined]
            Session(fd, context)

    patient[listening.fileno()] = accept
    poll.register(listening.fileno(), select.EPOLLIN)
    gc.freeze()
    gc.disable()
    while True:
        events = poll.poll(-1, 256)
        calls = callbacks
        if all(fd in patient for fd, _ in events):
            calls = patient
        for fd, what in events:
            ending = what == _READ
            try:
                if fd in calls:
                    call = calls[fd]
                    call()
                    if ending and calls.get(fd) is call:
                        call()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError as error:  # the load ends its idle sessions without a word
                session = getattr(calls.get(fd), "__self__", None)
                if session is None:
                    raise SystemExit(str(error)) from None
                session.close()


if __name__ == "__main__":
    backend = ("127.0.0.1", int(sys.argv[2]))
    tls = None
    if len(sys.argv) > 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.num_tickets = 1
        tls.load_cert_chain(sys.argv[3], sys.argv[4])
    door = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    door.setblocking(False)
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for its clients
    serve(door, tls)
