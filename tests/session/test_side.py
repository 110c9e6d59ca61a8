"""A side sends in order, at once or behind the batch, and loses nothing when it is let go of."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.servers.packets import hasten, received, tcp_pair
from tests.servers.tls import contexts_for

from perdition.errors import PeerGone, PerditionError
from perdition.session import poller as poller_module
from perdition.session.poller import Poller
from perdition.session.side import Side


class Ears:
    """Hears what a side tells."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.lost: list[PerditionError] = []


def unconnected(poller: Poller, ears: Ears) -> Side[Any]:
    """A side that may connect."""
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    return Side(poller, sock, ears.events.append, ears.lost.append)


@pytest.fixture
def ears() -> Ears:
    """What was told."""
    return Ears()


@pytest.fixture
def ends(poller: Poller, ears: Ears) -> Iterator[tuple[Side[Any], socket.socket]]:
    """A side and the socket of its peer."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    side: Side[Any] = Side(poller, ours, ears.events.append, ears.lost.append)
    yield side, theirs
    side.close()
    theirs.close()


def read(sock: socket.socket) -> bytes:
    """What is there."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("few", [-1, 4])
def test_bytes_leave_in_order(
    poller: Poller,
    ends: tuple[Side[Any], socket.socket],
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poller_module, "_FEW", few)
    side, theirs = ends
    signal, other = socket.socketpair()
    with signal, other:

        def talk() -> None:
            signal.recv(1)
            side.send(b"one ")
            side.send(b"two ")
            assert read(theirs) == (b"one two " if few > 0 else b"")

        poller.add_reader(signal.fileno(), talk)
        other.send(b"!")
        poller.wait(0)
        assert read(theirs) == (b"" if few > 0 else b"one two ")
        assert side.backlog == b""


def test_a_full_socket_takes_the_rest_later(
    poller: Poller, ends: tuple[Side[Any], socket.socket]
) -> None:
    side, theirs = ends
    whole = bytes(range(256)) * 8192
    side.send(whole)
    assert side.backlog
    side.send(b"end")
    got = b""
    while len(got) < len(whole) + 3:
        got += read(theirs)
        poller.wait(0)
    assert got == whole + b"end"


def test_what_waits_goes_with_the_socket_or_before_its_end(
    poller: Poller, ends: tuple[Side[Any], socket.socket]
) -> None:
    side, theirs = ends
    poller.crowded = True
    side.send(b"handed over")
    assert side.release() == b"handed over"
    side.send(b"goodbye")
    side.close()
    assert read(theirs) == b"goodbye"
    poller.crowded = False
    poller.wait(0)  # what was to be called finds nothing to do


def test_a_connection_that_cannot_begin(poller: Poller, ears: Ears) -> None:
    side = unconnected(poller, ears)
    side.connect(("255.255.255.255", 9))
    assert ears.lost == []  # whoever asked may still be at work
    poller.wait(0)
    (error,) = ears.lost
    assert isinstance(error, PeerGone)
    assert error.unreachable
    assert "unreachable" in str(error)
    assert side.fd < 0


def test_a_side_closed_before_its_connection_began(poller: Poller, ears: Ears) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        side = unconnected(poller, ears)
        side.connect(door.getsockname())
        side.close()
        poller.wait(0)
        with pytest.raises(BlockingIOError):
            door.accept()
    assert ears.lost == []


def test_an_event_of_whoever_had_the_number_before(poller: Poller, ears: Ears) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        side = unconnected(poller, ears)
        side.connect(door.getsockname())
        side.resume()
        poller._dispatch([(side.fd, select.EPOLLIN)])  # it connects behind this batch
        assert ears.lost == []
        door.accept()[0].close()
        poller.wait(1)
        assert [str(error) for error in ears.lost] == ["connection closed"]
        side.close()


def test_a_handshake_whose_session_has_ended_in_the_batch(
    poller: Poller, ears: Ears, ends: tuple[Side[Any], socket.socket]
) -> None:
    side, theirs = ends
    side.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None, server=True)
    theirs.send(b"this is no handshake")
    poller.wait(0)
    assert [str(error) for error in ears.lost] == ["wrong version number"]
    side._shake()
    assert len(ears.lost) == 1


class Client:
    """A TLS client of a side that greets it."""

    def __init__(
        self, poller: Poller, ends: tuple[socket.socket, socket.socket], curve: str = ""
    ) -> None:
        ours, theirs = contexts_for("localhost")
        if curve:
            ours.set_ecdh_curve(curve)
        plain, sock = ends
        sock.setblocking(False)
        self.lost: list[PerditionError] = []
        self.poller = poller
        self.side: Side[Any] = Side(poller, sock, self._secured, self.lost.append)
        self.side.start_tls(ours, None, server=True)
        plain.setblocking(False)
        self.sock = theirs.wrap_socket(
            plain, server_hostname="localhost", do_handshake_on_connect=False
        )

    def _secured(self, sock: object) -> None:
        self.side.send(b"* OK hello\r\n")

    def step(self) -> bool:
        """Go on with the handshake at both ends; whether the client's is through."""
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.poller.wait(0)
            assert select.select([self.sock], [], [], 0)[0], "an answer is there at once"
            return False
        return True

    def hears(self) -> bytes:
        """What is there at once, behind the tickets."""
        with suppress(ssl.SSLWantReadError):
            return self.sock.recv(100)
        return self.sock.recv(100)

    def close(self) -> None:
        self.side.close()
        self.sock.close()


@pytest.mark.parametrize("few", [-1, 4])
def test_a_ticket_and_what_follows_are_one_packet(
    poller: Poller, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "_FEW", few)
    client = Client(poller, tcp_pair())
    hasten(client.side.sock)
    while not client.step():
        pass
    _, before = received(client.sock)
    poller.wait(0)
    assert received(client.sock)[1] == before + 1
    assert client.hears() == b"* OK hello\r\n"
    assert client.sock.session is not None
    assert client.sock.session.has_ticket
    client.side.send(b"more\r\n")
    assert client.hears() == b"more\r\n", "at once"
    client.close()


def test_a_handshake_with_a_step_more_is_not_held_up(poller: Poller) -> None:
    client = Client(poller, tcp_pair(), "secp521r1")  # which no client guesses
    hasten(client.side.sock)
    steps = 1
    while not client.step():
        steps += 1
    poller.wait(0)
    assert steps == 3
    assert client.hears() == b"* OK hello\r\n"
    assert not client.lost
    client.close()


def test_a_handshake_over_what_is_not_tcp(poller: Poller) -> None:
    client = Client(poller, socket.socketpair())
    while not client.step():
        pass
    poller.wait(0)
    assert client.hears() == b"* OK hello\r\n"
    client.close()


def test_a_peer_that_is_gone_ahead_of_its_handshake(poller: Poller, ears: Ears) -> None:
    theirs, ours = tcp_pair()
    ours.setblocking(False)
    side: Side[Any] = Side(poller, ours, ears.events.append, ears.lost.append)
    poller.crowded = True
    side.send(b"OK Begin TLS\r\n")
    poller.crowded = False
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(PeerGone):
        side.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None, server=True)
    side.close()
