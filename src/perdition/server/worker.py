"""One worker: a loop, its listening sockets, its sessions, and the orders of the master.

It starts with the master's privileges only to drop them, before the first client. Orders come as
messages over a socket pair; the end of that pair means that the master is gone, and then the
worker lets its sessions end and goes too.
Invariant: a client is counted in before its session starts and counted out once it has ended.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from perdition.errors import StartError
from perdition.log import DescriptorTarget, Log
from perdition.metrics import LIMIT
from perdition.route import Server
from perdition.server.answers import Answers
from perdition.server.limits import ConnectionLimit
from perdition.server.privileges import Identity, become
from perdition.server.questions import MESSAGE
from perdition.server.sweep import Sweep
from perdition.session.login import Session, address_of
from perdition.session.loop import Loop
from perdition.session.service import Service
from perdition.session.trail import Address

ACCEPTS = 32  # clients taken in a row before the others get their turn
PAUSE = 1.0  # seconds without accepting when descriptors have run out
REFUSALS = 256  # clients over the limit that may be told so at once


@dataclass(slots=True)
class Orders:
    """What a worker is made with; `make_service` builds the sessions' service on its loop."""

    number: int
    sockets: list[socket.socket]
    control: socket.socket
    identity: Identity
    core_dumps: bool
    log: Log
    limit: ConnectionLimit
    make_service: Callable[..., Service]  # loop=, poller=, sweep=
    drained: frozenset[Server]


class Worker:
    """See the module; `run` returns the exit status."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.log = orders.log
        self.sessions: dict[Session, None] = {}  # grows by less at a time than a set
        self.refused = 0
        # Made once: a method of its own would be with each session as long as it lasts.
        self._when_ended = self._ended
        self.draining = False
        self.listening = False
        self.loop = Loop(failed=self._failed, after=self.log.batch_over)
        self.poller = self.loop.poller
        self.sweep = Sweep(self.loop, self._each_second)
        self.service: Service | None = None
        self.answers: Answers | None = None

    def run(self) -> int:
        """Drop privileges, say that we are ready, serve until the end."""
        orders = self.orders
        try:
            become(orders.identity, core_dumps=orders.core_dumps)
            self.service = orders.make_service(loop=self.loop, poller=self.poller, sweep=self.sweep)
        except StartError as error:
            orders.control.send(f"error {error}".encode())
            return 1
        self.service.health.drained = orders.drained
        orders.control.setblocking(False)
        self.answers = Answers(
            self.loop, self.poller, orders.control, self.service, self.sessions,
            number=orders.number,
        )  # fmt: skip
        self.loop.set_exception_handler(self._fault)
        self.poller.add_reader(orders.control.fileno(), self._ordered)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._drain, 0)
        self._listen()
        self.sweep.start()
        self.log.batching = True
        orders.control.send(b"ready")
        # Sessions leave nothing to collect, so it is only in the way of those that come to stay.
        gc.set_threshold(5000, 200, 100)
        try:
            self.loop.run_forever()
        finally:
            self.log.flush()
        return 0

    def _each_second(self) -> None:
        self.log.flush()
        if self.service is not None and self.service.arrivals is not None:
            self.service.arrivals.look_again()

    # -- clients ----------------------------------------------------------------------------

    def _listen(self) -> None:
        self.listening = True
        for sock in self.orders.sockets:
            name = sock.getsockname()
            # A socket bound to one address knows where its clients arrive; others ask for each.
            reached = None if name[0] in ("::", "0.0.0.0") else address_of(name)
            self.poller.add_reader(
                sock.fileno(), partial(self._accept, sock, int(sock.family), reached)
            )

    def _pause(self) -> None:
        self.listening = False
        for sock in self.orders.sockets:
            self.poller.remove_reader(sock.fileno())

    def _failed(self, error: BaseException) -> None:
        self.log.fault("callback", error)

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's own callbacks and tasks failed."""
        if isinstance(error := context.get("exception"), BaseException):
            self._failed(error)

    def _accept(self, listening: socket.socket, family: int, reached: Address | None) -> None:
        poller = self.poller
        if poller.crowded:
            again = partial(self._accept, listening, family, reached)
            poller.then_accept(listening.fileno(), again)
            return
        if not self.listening:
            return  # this batch had it stop
        poller.crowded = True  # greetings go out behind the last that comes
        try:
            self._take(listening, family, reached)
        finally:
            poller.crowded = False

    def _take(self, listening: socket.socket, family: int, reached: Address | None) -> None:
        for _ in range(ACCEPTS):
            try:
                fd, peer = listening._accept()  # type: ignore[attr-defined] # not in typeshed
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self._accept_failed(error)
                return
            # The C type itself: the wrapper around it costs more than the system call.
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            if family != socket.AF_INET:
                peer = address_of(peer)
            self._admit(sock, peer, reached or address_of(sock.getsockname()))

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            if self.service is not None:
                self.service.meter.count(LIMIT["open_files"])
            self.log.err(f"can't accept clients for {PAUSE:g} s: {error.strerror}")
            self._pause()
            self.loop.call_later(PAUSE, self._accept_again)
        elif error.errno not in (errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH):
            self.log.err(f"accepting a client failed: {error.strerror}")

    def _accept_again(self) -> None:
        if not self.draining:
            self._listen()

    def _admit(
        self, sock: socket.SocketType, peer: Address | None, reached: Address | None
    ) -> None:
        limit, service = self.orders.limit, self.service
        assert service is not None
        if limit.enter():
            session = Session(service, sock, peer, reached, self._when_ended)
        elif self.refused < REFUSALS:
            self.refused += 1
            session = Session(service, sock, peer, reached, self._ended_refused, refuse=limit.limit)
        else:
            sock.close()
            return
        if not session.over:
            self.sessions[session] = None

    def _ended(self, session: Session) -> None:
        self.orders.limit.leave()
        self.sessions.pop(session, None)
        if self.draining and not self.sessions:
            self.loop.stop()

    def _ended_refused(self, session: Session) -> None:
        self.refused -= 1
        self.sessions.pop(session, None)

    # -- orders -----------------------------------------------------------------------------

    def _ordered(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.orders.control, MESSAGE, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        word, _, rest = data.partition(b" ")
        if word == b"ask" and self.answers is not None:
            self.answers.ask(rest, fds)
        elif word == b"log" and fds:
            self._new_log(fds)
        elif word == b"drain":
            self._drain(int(rest or b"0"))
        elif not data:
            self.poller.remove_reader(self.orders.control.fileno())
            self._drain(0)

    def _new_log(self, fds: list[int]) -> None:
        self.log.target.close()
        self.log.target = DescriptorTarget(fds[0])

    def _drain(self, seconds: int) -> None:
        """Accept no more; end when the last session has, or after `seconds` (0: no bound)."""
        if seconds:
            self.loop.call_later(seconds, self._end)
        if self.draining:
            return
        self.draining = True
        self._pause()
        for sock in self.orders.sockets:
            self.poller.forget(sock.fileno())
            sock.close()
        if not self.sessions:
            self.loop.stop()

    def _end(self) -> None:
        for session in list(self.sessions):
            session.abort("Perdition is shutting down")
        self.loop.stop()


def run_worker(orders: Orders) -> int:
    """Be the worker that `orders` describe, in the process just forked; return its exit status."""
    orders.log.after_fork()
    return Worker(orders).run()
