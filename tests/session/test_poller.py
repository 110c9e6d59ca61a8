"""The poller calls who is to be called, whatever callbacks do to each other within a batch."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from perdition.session import poller as poller_module
from perdition.session.attempts import Attempts
from perdition.session.loop import Loop, session_of
from perdition.session.poller import Poller
from perdition.session.side import Side


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connected pairs, nothing in them."""
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def test_a_descriptor_closed_by_an_earlier_callback(poller: Poller, pairs: Pairs) -> None:
    heard: list[int] = []
    for ours, theirs in pairs:
        theirs.close()  # a hang-up is told to readers and writers alike
        poller.add_reader(ours.fileno(), lambda: None)

    def close_all() -> None:
        heard.append(1)
        for ours, _ in pairs:
            if ours.fileno() >= 0:
                poller.forget(ours.fileno())
                ours.close()

    for ours, _ in pairs:
        poller.add_reader(ours.fileno(), close_all)
    poller.wait(0)
    assert heard == [1]


def test_a_descriptor_used_again_within_the_batch(poller: Poller, pairs: Pairs) -> None:
    (first, its), (second, other), (third, far) = pairs
    its.close()
    other.close()
    heard: list[str] = []

    def replace() -> None:
        heard.append("first")
        number = second.fileno()
        for sock in (first, second):
            poller.forget(sock.fileno())
            sock.close()
        while True:
            again = third.dup()
            kept.append(again)
            if again.fileno() == number:
                break
        poller.add_reader(number, lambda: heard.append("again"))

    kept: list[socket.socket] = []
    poller.add_reader(first.fileno(), replace)
    poller.add_reader(second.fileno(), lambda: heard.append("second"))
    poller.wait(0)
    assert heard[0] == "first"
    assert "second" not in heard
    del heard[:]
    far.sendall(b"!")
    poller._dispatch(poller._epoll.poll(1))
    assert heard == ["again"]
    for sock in kept:
        sock.close()


def test_who_ends_with_what_is_said_is_read_twice_in_the_batch(
    poller: Poller, pairs: Pairs
) -> None:
    (first, its), (second, other), (third, far) = pairs
    heard: list[bytes] = []
    poller.add_reader(first.fileno(), lambda: heard.append(first.recv(10)))

    def once() -> None:
        heard.append(second.recv(10))
        poller.add_reader(second.fileno(), lambda: heard.append(b"another"))

    def close() -> None:
        heard.append(third.recv(10))
        poller.forget(third.fileno())
        third.close()

    poller.add_reader(second.fileno(), once)
    poller.add_reader(third.fileno(), close)
    its.send(b"first")
    poller.wait(0)
    assert heard == [b"first"]
    del heard[:]
    for sock, word in ((its, b"last"), (other, b"replaced"), (far, b"closed")):
        sock.send(word)
        sock.shutdown(socket.SHUT_WR)
    events = poller._epoll.poll(0)
    poller._dispatch(events)
    assert len(events) == 3
    assert heard == [b"last", b"", b"replaced", b"closed"]


def test_reading_and_writing_come_and_go(poller: Poller, pairs: Pairs) -> None:
    ours, theirs = pairs[0]
    fd, heard = ours.fileno(), list[str]()

    def turn() -> list[str]:
        del heard[:]
        poller._dispatch(poller._epoll.poll(0))
        return heard

    poller.add_writer(fd, lambda: heard.append("write"))
    assert turn() == ["write"]
    poller.add_reader(fd, lambda: heard.append("read"))
    theirs.sendall(b"!")
    assert turn() == ["read", "write"]
    poller.remove_writer(fd)
    assert turn() == ["read"]
    poller.remove_reader(fd)
    assert turn() == []
    poller.remove_reader(fd)
    poller.add_reader(fd, lambda: heard.append("again"))
    assert turn() == ["again"]
    poller.add_reader(fd, lambda: heard.append("another"))
    assert turn() == ["another"]


def test_a_hang_up_that_nobody_hears_is_told_once(poller: Poller, pairs: Pairs) -> None:
    ours, theirs = pairs[0]
    poller.add_reader(ours.fileno(), lambda: None)
    poller.remove_reader(ours.fileno())
    theirs.close()
    poller._dispatch(poller._epoll.poll(1))
    assert poller._epoll.poll(0) == []
    heard: list[int] = []
    poller.add_reader(ours.fileno(), lambda: heard.append(1))
    poller._dispatch(poller._epoll.poll(1))
    assert heard == [1]


def test_room_for_writing_that_nobody_waits_for_any_more(poller: Poller, pairs: Pairs) -> None:
    ours, theirs = pairs[0]
    heard: list[int] = []
    poller.add_reader(ours.fileno(), lambda: heard.append(1))
    poller.add_writer(ours.fileno(), lambda: None)
    batch = poller._epoll.poll(1)
    poller.remove_writer(ours.fileno())  # as an earlier callback of the batch may do
    poller._dispatch(batch)
    del heard[:]
    assert poller._epoll.poll(0) == []
    theirs.sendall(b"!")
    poller._dispatch(poller._epoll.poll(1))
    assert heard == [1]


def test_the_loop_serves_tasks_threads_and_timers_among_sockets(pairs: Pairs) -> None:
    faults: list[Exception] = []
    loop = Loop(failed=faults.append, after=lambda crowded: None)
    ours, theirs = pairs[0]
    seen: list[str] = []

    async def ask() -> None:
        seen.append(await loop.run_in_executor(None, lambda: "thread"))
        await asyncio.sleep(0.01)
        seen.append("timer")
        loop.stop()

    def readable() -> None:
        seen.append(ours.recv(10).decode())
        if seen == ["socket"]:
            loop.create_task(ask())
        raise ValueError("told, and the loop goes on")

    loop.poller.add_reader(ours.fileno(), readable)
    loop.call_soon(theirs.sendall, b"socket")
    late = loop.call_later(10, loop.stop)
    loop.run_forever()
    late.cancel()
    assert seen == ["socket", "thread", "timer"]
    assert [str(each) for each in faults] == ["told, and the loop goes on"]
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_timers_come_though_sockets_always_have_something(pairs: Pairs) -> None:
    loop = Loop(failed=lambda error: None, after=lambda crowded: None)
    ours, theirs = pairs[0]
    theirs.sendall(b"never read")
    calls: list[int] = []
    loop.poller.add_reader(ours.fileno(), lambda: calls.append(1))
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert len(calls) > 10
    loop.close()


def test_a_large_batch_sends_behind_itself(pairs: Pairs) -> None:
    heard: list[str] = []
    faults: list[Exception] = []
    poller = Poller(
        failed=lambda error, call: faults.append(error),
        after=lambda crowded: heard.append(f"after {crowded}"),
    )

    def last() -> None:
        assert not poller.crowded
        heard.append("last")
        raise ValueError("costs nobody else anything")

    def late() -> None:
        heard.append("late")
        poller.later(last)

    def readable(sock: socket.socket) -> None:
        sock.recv(1)
        heard.append("crowded" if poller.crowded else "few")
        poller.later(late)

    ends = [end for pair in pairs for end in pair]
    for sock in ends:
        poller.add_reader(sock.fileno(), partial(readable, sock))
    for ours, theirs in pairs[:2]:
        ours.send(b"!")
        theirs.send(b"!")
    poller.wait(0)
    assert heard == ["after False"] + ["few"] * 4 + ["late"] * 4 + ["last"] * 4 + ["after False"]
    del heard[:]
    for ours, theirs in pairs:
        ours.send(b"!")
        theirs.send(b"!")
    poller.wait(0)
    assert heard == ["after False"] + ["crowded"] * 6 + ["late"] * 6 + ["last"] * 6 + ["after True"]
    assert len(faults) == 10
    del heard[:]
    poller.later(lambda: heard.append("ahead"))
    poller.wait(0)
    assert heard[:2] == ["ahead", "after False"]
    poller.close()


def test_what_is_closed_and_accepted_behind_what_is_sent(pairs: Pairs) -> None:
    heard: list[str] = []
    faults: list[Exception] = []
    poller = Poller(failed=lambda error, call: faults.append(error), after=lambda crowded: None)

    def close() -> None:
        heard.append("close")
        poller.later(partial(heard.append, "late"))
        raise ValueError("costs nobody else anything")

    def readable(sock: socket.socket) -> None:
        sock.recv(1)
        if poller.crowded:
            poller.then_accept(sock.fileno(), partial(heard.append, "accept"))
            poller.then_close(close)
        poller.later(partial(heard.append, "send"))

    for pair in pairs:
        for sock in pair:
            poller.add_reader(sock.fileno(), partial(readable, sock))
            sock.send(b"!")
    poller.wait(0)
    assert heard == ["send"] * 6 + ["close"] * 6 + ["accept"] * 6 + ["late"] * 6
    assert len(faults) == 6
    del heard[:]
    pairs[0][0].send(b"!")
    poller.wait(0)
    assert heard == ["send"], "and nothing of the batch before"
    poller.close()


def test_what_comes_meanwhile_belongs_to_a_large_batch(pairs: Pairs) -> None:
    heard: list[str] = []
    faults: list[Exception] = []
    poller = Poller(failed=lambda error, call: faults.append(error), after=lambda crowded: None)
    ends = [end for pair in pairs for end in pair]
    last = ends[-1]
    accept = partial(heard.append, "accept")

    def readable(sock: socket.socket) -> None:
        heard.append("read" if sock is not last else "last")
        sock.recv(1)
        poller.then_accept(0, accept)
        poller.later(partial(heard.append, "send"))
        if sock is ends[0]:
            pairs[-1][0].send(b"!")  # which `last` can read from now on
            raise ValueError("the others are heard, and the rest as well")
        if sock is last:
            pairs[-1][0].send(b"!")  # there is no third look

    for sock in ends:
        poller.add_reader(sock.fileno(), partial(readable, sock))
    for sock in (ends[1], ends[0], ends[3], ends[2], ends[5]):
        sock.send(b"!")
    poller.wait(0)
    assert heard == ["read"] * 5 + ["last"] + ["send"] * 6 + ["accept"]
    assert len(faults) == 1
    del heard[:]
    poller.wait(0)
    assert heard == ["last", "send", "accept"]
    poller.close()


def test_a_socket_that_is_not_connected_yet_is_not_read(poller: Poller) -> None:
    heard: list[str] = []
    with socket.socket() as early, socket.socket() as silent, socket.socket() as listening:
        for sock in (early, silent):
            sock.setblocking(False)
            poller.add_reader(sock.fileno(), partial(heard.append, "read"))
        # Nobody is to hear of it: the kernel would say again and again that it has hung up.
        poller.remove_reader(silent.fileno())
        for _ in range(3):
            poller.wait(0.05)
        assert not heard
        assert silent.fileno() not in poller._ports
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        early.connect_ex(listening.getsockname())
        other, _ = listening.accept()
        with other:
            other.send(b"!")
            poller.wait(1)
        assert heard[:1] == ["read"]
        poller.forget(early.fileno())


def test_who_is_patient_is_called_when_nothing_else_is_there(
    poller: Poller, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    (first, one), (second, two), (busy, other) = pairs
    left = 3

    def again() -> None:
        nonlocal left
        heard.append("busy")
        left -= 1
        if not left:
            busy.recv(1)

    def patient(name: str, sock: socket.socket) -> None:
        heard.append(name)
        sock.recv(1)

    for name, sock in ("first", first), ("second", second):
        poller.add_patient_reader(sock.fileno(), partial(patient, name, sock))
    poller.add_reader(busy.fileno(), again)
    monkeypatch.setattr(poller_module, "_MOMENT", 3600)
    one.send(b"!")
    other.send(b"!")
    poller.wait(0)
    two.send(b"!")
    for _ in range(3):
        poller.wait(0)
    assert heard == ["busy", "busy", "busy", "first", "second"]
    # Though there is always something else it is called after a moment.
    monkeypatch.setattr(poller_module, "_MOMENT", 0.05)
    del heard[:]
    left = 1_000_000
    one.send(b"!")
    other.send(b"!")
    started = time.monotonic()
    while "first" not in heard and time.monotonic() < started + 5:
        poller.wait(0)
    assert 0.05 <= time.monotonic() - started < 1
    # Nor is it called once it is not wanted any more.
    two.send(b"!")
    poller.wait(0)
    poller.remove_reader(second.fileno())
    del heard[:]
    left = 1
    for _ in range(3):
        poller.wait(0)
    assert heard == ["busy"]


def test_of_many_patient_ones_not_all_are_called_at_once(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "_BATCH", 3)
    monkeypatch.setattr(poller_module, "_MOMENT", 0)
    heard: list[str] = []
    made = [socket.socketpair() for _ in range(8)]
    for ours, theirs in made:
        poller.add_patient_reader(ours.fileno(), partial(heard.append, "called"))
        theirs.send(b"!")
    for ours, _ in made:  # all of them have been heard of, and are read by now
        poller._has_time(ours.fileno(), partial(heard.append, "called"))
        ours.recv(1)
    called = [0]
    for _ in range(3):
        poller._dispatch(poller._epoll.poll(0))
        called.append(len(heard))
    assert called == [0, 3, 6, 8]
    for pair in made:
        for sock in pair:
            sock.close()


def test_whose_end_a_fault_is(poller: Poller, pairs: Pairs) -> None:
    session = Attempts.__new__(Attempts)  # nothing of it is called
    fd = pairs[0][0].fileno()
    side: Side[Any] = Side(poller, pairs[0][0], session.step, session._server_lost)
    poller.add_writer(fd, side._writable)
    assert session_of(poller._calls[fd]) is session  # one of two callbacks of a descriptor
    assert session_of(side._readable) is session
    assert session_of(partial(side._connect, ("127.0.0.1", 1))) is session
    assert session_of(poller.leave) is None
    assert session_of(partial(session.fault, ValueError())) is None  # or it would never end
