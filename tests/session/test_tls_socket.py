"""A socket under TLS does what `ssl.SSLSocket` does, as far as a proxy needs it."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from tests.servers.tls import contexts_for, shake

from perdition.tls_socket import TlsSocket

NAME = "bücher.example"


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that trust each other."""
    return contexts_for(NAME)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: a blocking one, and ours, which is not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname(), timeout=10)
        far, _ = listening.accept()
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


def read(sock: TlsSocket) -> bytes:
    """Wait for something to read."""
    while True:
        try:
            return sock.recv(100)
        except ssl.SSLWantReadError:
            assert select.select([sock], [], [], 10)[0]


def secured(
    ends: tuple[socket.socket, socket.socket], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[ssl.SSLSocket, TlsSocket]:
    """A client, and ours as its server."""
    near, far = ends
    done: list[ssl.SSLSocket] = []

    def connect() -> None:
        done.append(contexts[1].wrap_socket(near, server_hostname=NAME, suppress_ragged_eofs=False))

    thread = threading.Thread(target=connect)
    thread.start()
    ours = TlsSocket(far, contexts[0], None, server=True)
    shake(ours)
    thread.join(10)
    return done[0], ours


def test_both_ways_and_farewell(
    ends: tuple[socket.socket, socket.socket], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    client, ours = secured(ends, contexts)
    assert ours.send(b"hello") == 5
    assert client.recv(100) == b"hello"
    client.sendall(b"well")
    buffer = memoryview(bytearray(10))
    select.select([ours], [], [], 10)
    assert ours.recv_into(buffer, 3) == 3
    assert ours.recv_into(buffer[3:]) == 1
    assert bytes(buffer[:4]) == b"well"
    ours.close()
    assert client.recv(100) == b""  # a ragged end would be an error
    ours.close()
    client.close()


def test_an_end_without_farewell_is_an_end(
    ends: tuple[socket.socket, socket.socket], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    client, ours = secured(ends, contexts)
    socket.SocketType.shutdown(client, socket.SHUT_WR)
    assert read(ours) == b""
    assert ours.recv_into(bytearray(10)) == 0
    ours.close()
    client.close()


@pytest.mark.parametrize(("name", "is_right"), [(NAME, True), ("other.example", False)])
def test_a_server_is_who_it_says(
    ends: tuple[socket.socket, socket.socket],
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    name: str,
    is_right: bool,
) -> None:
    near, far = ends
    failed: list[Exception] = []

    def serve() -> None:
        try:
            with contexts[0].wrap_socket(near, server_side=True) as server:
                server.recv(1)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    ours = TlsSocket(far, contexts[1], name, server=False)
    if is_right:
        shake(ours)
    else:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(ours)
    ours.close()
    thread.join(10)
    assert bool(failed) is not is_right
