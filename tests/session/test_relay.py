"""The relay moves random chunks both ways over every pair of TCP and TLS, byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from tests.servers.packets import hasten, received, tcp_pair
from tests.servers.tls import contexts_for, shake

from perdition.session import poller
from perdition.session.loop import Loop
from perdition.session.poller import Poller
from perdition.session.relay import Means, Relay
from perdition.session.splice import Pipe
from perdition.tls_socket import TlsSocket

TLS_PAIRS = list(product((False, True), repeat=2))


@pytest.fixture(autouse=True, params=["few", "crowd"])
def crowded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Each test twice: small chunks are sent at once, or behind the batch of events."""
    is_crowd: bool = request.param == "crowd"
    if is_crowd:
        monkeypatch.setattr(poller, "_FEW", -1)
    return is_crowd


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that trust each other."""
    return contexts_for("localhost")


def pair(
    tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[socket.socket, socket.SocketType]:
    """A peer's blocking socket and the relay's non-blocking one, with TLS up if asked for."""
    peer, plain = tcp_pair()
    plain.setblocking(False)
    ours: socket.SocketType = plain
    if tls:
        done: list[socket.socket] = []
        thread = threading.Thread(
            target=lambda: done.append(contexts[1].wrap_socket(peer, server_hostname="localhost"))
        )
        thread.start()
        ours = TlsSocket(plain, contexts[0], None, server=True)
        shake(ours)
        thread.join()
        peer = done[0]
    peer.settimeout(15)
    return peer, ours


class Seconds:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0


class Owner:
    """Hears of a relay's end."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def relay_due_by(self, second: int) -> None:
        pass  # the tests ask themselves

    def relay_ended(self, relay: Relay, why: str) -> None:
        self.words.append(why)


class CountingPipe:
    """A pipe that counts what goes through it, and looks whether it is empty afterwards."""

    def __init__(self) -> None:
        self.moved = 0
        self.pipe = Pipe()

    def move(self, source: int, sink: int, most: int) -> tuple[int, bytes]:
        assert most <= 131072
        try:
            got, rest = self.pipe.move(source, sink, most)
        finally:
            with pytest.raises(BlockingIOError):
                os.read(self.pipe._out, 1)
        self.moved += got
        return got, rest

    def close(self) -> None:
        self.pipe.close()


def new_loop() -> Loop:
    """A loop whose sockets' callbacks may not fail."""

    def failed(error: Exception) -> None:
        loop.stop()
        raise error

    loop = Loop(failed=failed, after=lambda crowded: None)
    return loop


class Running:
    """A relay on a loop of its own in a thread, as a worker would run it."""

    def __init__(self, client: socket.SocketType, server: socket.SocketType) -> None:
        self.loop = new_loop()
        self.seconds = Seconds()
        self.words: list[str] = []
        self.pipe = CountingPipe()
        buffer = memoryview(bytearray(131072))
        means = Means(self.loop.poller, self.seconds, buffer, self.pipe, idle=5)
        self.relay = Relay(means, client, server, self)
        self.thread = threading.Thread(target=self._run)

    def relay_due_by(self, second: int) -> None:
        pass  # the tests ask themselves

    def relay_ended(self, relay: Relay, why: str) -> None:
        self.words.append(why)
        self.loop.stop()

    def start(self, to_server: bytes = b"", to_client: bytes = b"") -> None:
        up, down = self.relay.up, self.relay.down
        self.loop.call_soon(down.start, b"", to_client)
        self.loop.call_soon(up.start, b"", to_server)
        self.thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()
        self.pipe.close()

    def join(self) -> None:
        self.thread.join(15)
        assert not self.thread.is_alive()


def converse(sock: socket.socket, seed: int, send: int, receive: int, slow: bool) -> str:
    """Send `send` random bytes while reading `receive`, both in random pieces; the two digests.

    One thread does both, since an SSLSocket is not made for two.
    """
    rng = random.Random(seed)
    pauses = threading.Event()
    sent, got = hashlib.sha256(), hashlib.sha256()
    sock.setblocking(False)
    chunk = b""
    while send or chunk or receive:
        moved = False
        if not chunk and send:
            chunk = rng.randbytes(min(send, rng.choice((1, 7, 900, 16384, 16385, 70000))))
            sent.update(chunk)
            send -= len(chunk)
        if chunk:
            try:
                chunk = chunk[sock.send(chunk) :]
                moved = True
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
        if receive:
            try:
                data = sock.recv(min(receive, rng.choice((100, 3000, 65536))))
                assert data, f"{receive} bytes missing"
                got.update(data)
                receive -= len(data)
                moved = True
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
        if not moved:
            select.select([sock], [sock] if chunk else [], [], 1)
        elif slow and rng.random() < 0.05:
            pauses.wait(0.002)
    return f"{sent.hexdigest()} {got.hexdigest()}"


def drink(sock: socket.socket, size: int) -> bytes:
    """Read just `size` bytes."""
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


@pytest.mark.parametrize(("client_tls", "server_tls"), TLS_PAIRS)
def test_random_chunks_both_ways(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], client_tls: bool, server_tls: bool
) -> None:
    client, front = pair(client_tls, contexts)
    server, back = pair(server_tls, contexts)
    running = Running(front, back)
    running.start(b"early to server", b"early to client")
    assert drink(server, 15) == b"early to server"
    assert drink(client, 15) == b"early to client"
    up, down = 3_000_000, 4_000_000
    digests: dict[str, str] = {}
    jobs = [
        threading.Thread(target=lambda: digests.update(client=converse(client, 1, up, down, True))),
        threading.Thread(
            target=lambda: digests.update(server=converse(server, 2, down, up, False))
        ),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(18)
    assert digests["client"].split() == digests["server"].split()[::-1]
    client.close()
    running.loop.call_soon_threadsafe(running.relay.due, 2)
    server.close()
    running.join()
    assert (running.relay.up.count, running.relay.down.count) == (up + 15, down + 15)
    assert running.words == [""]


@contextmanager
def relayed(
    tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[tuple[socket.socket, socket.socket, Running]]:
    """A client, plain or with TLS, a plain server, and the relay between them; ended with it."""
    client, front = pair(tls, contexts)
    server, back = pair(False, contexts)
    running = Running(front, back)
    yield client, server, running
    client.close()
    server.close()
    running.join()


@pytest.fixture
def plain(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> Iterator[tuple[socket.socket, socket.socket, Running]]:
    """All plain, not started yet."""
    with relayed(False, contexts) as made:
        yield made


def test_half_close_lets_the_answer_through(
    plain: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = plain
    running.start()
    client.sendall(b"a LOGOUT\r\n")
    client.shutdown(socket.SHUT_WR)
    assert server.makefile("rb").read() == b"a LOGOUT\r\n"
    server.sendall(b"x" * 500_000)
    server.close()
    assert len(client.makefile("rb").read()) == 500_000


def test_much_at_a_time_goes_through_the_pipe_and_none_is_lost(
    plain: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = plain
    running.start()
    data = random.Random(3).randbytes(20_000_000)
    sender = threading.Thread(target=server.sendall, args=(data,))
    sender.start()
    digest, left = hashlib.sha256(), len(data)
    pauses = threading.Event()
    while left:
        piece = client.recv(300_000)
        digest.update(piece)
        left -= len(piece)
        pauses.wait(0.001)  # slower than the sender: the sink does not take all
    sender.join()
    assert digest.digest() == hashlib.sha256(data).digest()
    assert running.pipe.moved > len(data) // 2
    client.sendall(b"still there")
    assert drink(server, 11) == b"still there"


def test_a_client_that_breaks_off_leaves_the_pipe_empty(
    plain: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = plain
    running.start()
    server.settimeout(5)
    for _ in range(100):
        server.sendall(bytes(65536))
        drink(client, 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset
    with pytest.raises(ConnectionError):
        while True:
            server.sendall(bytes(65536))
    running.join()
    assert running.words == [""]
    assert running.pipe.moved > 0


def test_a_slow_reader_costs_no_memory(
    plain: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = plain
    running.start()
    server.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += server.send(b"y" * 65536)
    assert len(running.relay.down.backlog) <= 131072
    server.settimeout(15)
    server.shutdown(socket.SHUT_WR)
    assert len(client.makefile("rb").read()) == sent


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def started(
    request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[tuple[socket.socket, socket.socket, Running]]:
    """The client plain or with TLS; the relay runs."""
    with relayed(request.param, contexts) as made:
        made[2].start()
        yield made


def test_a_server_that_ends_takes_the_session_with_it(
    started: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = started
    server.sendall(b"bye")
    server.shutdown(socket.SHUT_WR)
    assert client.makefile("rb").read() == b"bye"
    running.join()
    assert running.words == [""]


def test_a_server_that_ends_still_gets_what_the_client_had_sent(
    started: tuple[socket.socket, socket.socket, Running],
) -> None:
    client, server, running = started
    busy, go_on = threading.Event(), threading.Event()
    running.loop.call_soon_threadsafe(busy.set)
    running.loop.call_soon_threadsafe(go_on.wait, 5)
    assert busy.wait(5)  # now the end of the server is there before the relay looks
    server.shutdown(socket.SHUT_WR)
    client.sendall(b"z" * 1000)
    go_on.set()
    assert drink(server, 1000) == b"z" * 1000


@contextmanager
def turned(poller: Poller, client: socket.SocketType, server: socket.SocketType) -> Iterator[Relay]:
    """A relay that a test turns by hand."""
    pipe, buffer = Pipe(), memoryview(bytearray(131072))
    relay = Relay(Means(poller, Seconds(), buffer, pipe, idle=0), client, server, Owner())
    for flow in relay.down, relay.up:
        flow.source.setblocking(False)
        flow.start()
    yield relay
    relay.close("")
    pipe.close()


def say_last(server: socket.socket, back: socket.SocketType, words: bytes) -> None:
    """Say something and end, and wait until both are there."""
    server.sendall(words)
    server.shutdown(socket.SHUT_WR)
    poll = select.poll()
    poll.register(back, select.POLLRDHUP)
    assert poll.poll(5000)


class Miser(socket.SocketType):
    """A socket that takes at most so many bytes at a time."""

    takes = 2

    def send(self, data: Any, flags: int = 0, /) -> int:
        if not self.takes:
            raise BlockingIOError
        return super().send(data[: self.takes], flags)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_last_words_and_the_end_of_a_server_are_one_packet(
    poller: Poller, contexts: tuple[ssl.SSLContext, ssl.SSLContext], tls: bool, crowded: bool
) -> None:
    client, front = pair(tls, contexts)
    server, back = pair(False, contexts)
    hasten(front)
    with client, server, turned(poller, front, back) as relay:
        if tls:
            client.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                client.recv(1)  # the tickets
            client.settimeout(15)
        say_last(server, back, b"bye")
        before, _ = received(client)
        poller._dispatch(poller._epoll.poll(5))
        assert relay.closed
        assert client.recv(100) == b"bye"
        assert client.recv(100) == b""
        assert received(client)[0] - before == (1 if crowded else 2)


@pytest.mark.parametrize("half_closes", [False, True])
def test_last_words_that_the_client_has_no_room_for_are_not_lost(
    poller: Poller, half_closes: bool, crowded: bool
) -> None:
    (client, front), (server, back) = tcp_pair(), tcp_pair()
    client.settimeout(5)
    full = Miser(fileno=front.detach())
    with client, server, turned(poller, full, back) as relay:
        full.takes = 0
        say_last(server, back, b"bye")
        poller.wait(0)
        if half_closes:  # and goes on reading
            client.shutdown(socket.SHUT_WR)
            poller.wait(0)
        assert not relay.closed
        full.takes = 100
        poller.wait(0)
        poller.wait(0)
        assert client.recv(10) == b"bye"
        assert client.recv(1) == b""
        assert relay.closed == (half_closes or not crowded)


@pytest.mark.parametrize("half_closed", [False, True])
def test_last_words_of_which_the_client_takes_a_part_go_on(
    poller: Poller, half_closed: bool, crowded: bool
) -> None:
    (client, front), (server, back) = tcp_pair(), tcp_pair()
    client.settimeout(5)
    with client, server, turned(poller, Miser(fileno=front.detach()), back) as relay:
        if half_closed:
            client.shutdown(socket.SHUT_WR)
            poller.wait(0)
        say_last(server, back, b"good bye")
        for _ in range(5):
            poller.wait(0)
        assert drink(client, 8) == b"good bye"
        assert client.recv(1) == b""
        assert relay.closed == (half_closed or not crowded)


def test_large_chunks_do_not_overtake_what_the_end_of_the_server_found(
    poller: Poller,
) -> None:
    (client, front), (server, back) = tcp_pair(), tcp_pair()
    with client, server, turned(poller, front, back) as relay:
        server.settimeout(5)
        while relay.up.callback is relay.up:  # until it comes in large chunks
            before = relay.up.count
            client.sendall(bytes(relay.up.most))
            poller.wait(5)
            drink(server, relay.up.count - before)
        client.sendall(b"first ")
        server.shutdown(socket.SHUT_WR)
        assert select.select([front], [], [], 5)[0]
        assert select.select([back], [], [], 5)[0]
        # The end of the server is an event of a large batch, ahead of the other.
        poller.crowded = True
        relay.down()
        client.sendall(b"second")
        assert select.select([front], [], [], 5)[0]
        relay.up.callback()
        poller.crowded = False
        poller.wait(0)
        assert drink(server, 12) == b"first second"


def test_idle_ends_it_and_traffic_defers_it() -> None:
    loop = new_loop()
    seconds = Seconds()
    client, front = tcp_pair()
    server, back = tcp_pair()
    front.setblocking(False)
    back.setblocking(False)
    owner = Owner()
    pipe = Pipe()
    means = Means(loop.poller, seconds, memoryview(bytearray(131072)), pipe, idle=10)
    relay = Relay(means, front, back, owner)
    relay.up.start()
    relay.down.start()
    assert relay.due(9) == 10
    seconds.now = 9
    server.sendall(b"!")
    client.setblocking(True)
    loop.call_later(0.2, loop.stop)
    loop.run_forever()
    assert client.recv(1) == b"!"
    assert relay.due(10) == 19
    assert relay.due(19) == 0
    assert owner.words == ["Timeout piping data."]
    assert client.recv(1) == b""
    client.close()
    server.close()
    pipe.close()
    loop.close()
