"""Log in at the servers of one user, one after the other, until one of them answers.

What is said there is the grammar's; here are connections, TLS, deadlines and whose turn it is.
Invariant: at most one server is connected, and one whose answer was not yes is gone.
"""

from __future__ import annotations

import socket
import time

from perdition import metrics, proxy_header
from perdition.errors import DeadlineExpired, PeerGone, PerditionError
from perdition.protocols import TlsUse
from perdition.route import Server
from perdition.session import dial
from perdition.session.quick import Quick
from perdition.session.side import Side
from perdition.session.stepped import (
    NEXT_ADDRESS,
    NEXT_AGAIN,
    ServerLost,
    Step,
    Stepped,
    next_step,
)
from perdition.session.tracing import Trace
from perdition.session.trail import Trail, dialogue_log, secure_word
from perdition.wire.base import Accepted, Back, Login, Reason, Refused, StartTls

# What another server of the same user may do better.
_NEXT_MAY_HELP = (Reason.UNREACHABLE, Reason.NEGOTIATION, Reason.TEMPORARY)


class Attempts(Stepped):
    """A dialogue that logs in at servers; who inherits says what becomes of it."""

    __slots__ = ("at", "quick", "server", "trace", "trail")

    at: Server | None  # where this session counts
    quick: Quick | None  # in charge up to the login, or what it has begun
    server: Side[Back] | None
    trace: Trace | None  # of a user whom somebody wants to look at
    trail: Trail

    def _verdict(
        self, login: Login, server: str, failure: Reason | None, server_secure: str = "plaintext"
    ) -> None:
        """Log how a login ended."""
        raise AssertionError

    def _server_lost(self, error: PerditionError) -> None:
        self.step(None, ServerLost(error))

    @property
    def _was_slow_to_connect(self) -> bool:
        return self._timed_out and self._step is Step.CONNECT

    def _attempt(self) -> object:
        return self.server

    def _step_reached(self) -> Step:
        server = self.server
        if server is None or not dial.is_connected(server.sock):
            return Step.CONNECT
        back = server.grammar
        return Step.LOGIN if back is not None and back.logging_in else Step.GREETING

    async def _try_servers(
        self, login: Login, for_server: Login, servers: tuple[Server, ...]
    ) -> Accepted | Refused:
        """The first answer of a server that can be reached, or why none could; logged."""
        service = self.service
        alive = servers if self.server is not None else service.health.order(servers)
        if not alive:
            refused = Refused(Reason.UNREACHABLE if servers else Reason.NO_SERVER)
            self._verdict(login, str(servers[0]) if servers else "", refused.reason)
        for server in alive:
            outcome, secure = await self._try_server(server, for_server)
            if isinstance(outcome, Accepted):
                if service.health.works(server):
                    self.answers_again(server)
                self._verdict(login, str(server), None, secure)
                return outcome
            refused = outcome
            self._verdict(login, str(server), refused.reason, secure)
            if refused.detail:
                service.log.debug(f"server {server}: {refused.detail}")
            if refused.reason not in _NEXT_MAY_HELP:
                break
        return refused

    def answers_again(self, server: Server) -> None:
        """Log that a server which was down has let a user in."""
        self.service.log.notice(f"server {server} answers again")

    async def _try_server(self, server: Server, login: Login) -> tuple[Accepted | Refused, str]:
        """Log in at the first address of a server that answers; and how secure it was."""
        service = self.service
        begun = self.quick if self.server is not None else None
        if begun is None and not service.health.enter(server):
            return self._no_room(), "plaintext"
        self.at = server
        started = time.monotonic() if begun is None else begun.started
        refused = Refused(Reason.UNREACHABLE, detail="no address")
        secure, slow = "plaintext", False
        known = service.resolver.known(server) if begun is None else (begun.address,)
        order = list(known or await self._resolve(server))
        first = len(order)
        for number, address in enumerate(order, 1):
            try:
                side = self.server or self._connect(address)
            except OSError as error:
                refused = Refused(Reason.UNREACHABLE, detail=error.strerror or str(error))
                continue
            patience = _patience(number, first, len(order))
            back = self._begin(side, server, login, patience)
            try:
                if begun is not None:
                    begun.catch_up(back)
                elif service.header_version or service.back_terms.tls is TlsUse.SSL:
                    await self._speak_first(side, server)
                side.resume()
                outcome = await next_step()
                while isinstance(outcome, StartTls):
                    outcome = await self._upgrade(side, back, server)
            except ServerLost as lost:
                outcome = self._lost_server(back, lost.error)
            secure = secure_word(side.sock, service.back_terms.tls)
            if isinstance(outcome, Accepted):
                if number > 1:
                    service.resolver.prefer(server, address)
                service.health.answered(server, time.monotonic() - started)
                return outcome, secure
            refused = outcome
            if refused.reason is Reason.REFUSED:  # an answer, too
                service.resolver.prefer(server, address)
            # Addresses before one that was reached say nothing of the server.
            slow = self._timed_out or (slow and refused.reason is Reason.UNREACHABLE)
            self._drop_server()
            if number <= first and patience and self._was_slow_to_connect:
                order.append(address)  # it got less than its time
            if refused.reason is not Reason.UNREACHABLE:
                break
        self._gave_up(server, refused, slow, time.monotonic() - started)
        return refused, secure

    def _no_room(self) -> Refused:
        """There are as many sessions at the server as there may be."""
        self.service.meter.count(metrics.LIMIT["server_connection_limit"])
        return Refused(Reason.TEMPORARY, detail="server_connection_limit reached")

    def _gave_up(self, server: Server, refused: Refused, slow: bool, seconds: float) -> None:
        """Remember what became of a server that did not let the user in."""
        health = self.service.health
        self._leave()
        if refused.reason is Reason.REFUSED:
            health.answered(server, seconds)
        else:
            health.disappointed(server)
        down = slow or refused.reason is Reason.UNREACHABLE
        if down and health.failed(server, slow=slow):
            self.service.log.err(f"server {server} is down: {refused.detail}")

    def _connect(self, address: dial.SockAddress) -> Side[Back]:
        """Begin a connection; OSError when there is no socket for it."""
        service, (family, where) = self.service, address
        sock = dial.open_socket(family, service.sources, keepalive=service.keepalive)
        side = self.approach(sock)
        side.connect(where)
        return side

    def approach(self, sock: socket.SocketType) -> Side[Back]:
        """Make of the server's socket what it is to the dialogue."""
        side = self.server = Side(self.service.poller, sock, self.step, self._server_lost)
        return side

    async def _resolve(self, server: Server) -> tuple[dial.SockAddress, ...]:
        """The addresses of a server; none, logged, when the resolver knows none."""
        try:
            return await self._driver(self.service.resolver.ask(server))
        except OSError as error:
            self.service.log.debug(f"server {server}: {error.strerror}")
            return ()

    def _begin(self, side: Side[Back], server: Server, login: Login, patience: float) -> Back:
        """Have ready what reads the server, and its deadlines."""
        service = self.service
        terms = service.back_terms
        origin = self.trail.origin() if service.forward_client else None
        back = service.back(login, terms, secure=terms.tls is TlsUse.SSL, origin=origin)
        side.grammar = back
        if service.log_dialogue:
            back.shown = dialogue_log(service.log, "REAL")
        if self.trace is not None:
            self.trace.note(f"connects to {server}")
            back.shown = self.trace.shown("server", back.shown)
        self._timed_out = False
        if not self._tried:
            self._expect_connection(patience)
        return back

    async def _speak_first(self, side: Side[Back], server: Server) -> None:
        """Say what a server hears ahead of its greeting: who its client is, a handshake."""
        service = self.service
        side.when_connected()
        await next_step()
        side.send(self._header(service.header_version))
        if service.back_terms.tls is TlsUse.SSL:
            await self._secure_server(side, server)

    async def _upgrade(self, side: Side[Back], back: Back, server: Server) -> object:
        """STARTTLS is agreed: have TLS, and what the server says then."""
        await self._secure_server(side, server)
        back.secured()
        side.send(back.take())
        side.resume()
        return await next_step()

    def _header(self, version: int) -> bytes:
        """What tells the server who its client is, ahead of everything else."""
        trail = self.trail
        return proxy_header.write(version, trail.client, trail.reached) if version else b""

    def _lost_server(self, back: Back, error: PerditionError) -> Refused:
        """What the end of a server's connection means for the login."""
        detail = str(error)
        self._timed_out = isinstance(error, DeadlineExpired)
        if isinstance(error, PeerGone) and error.unreachable:
            return Refused(Reason.UNREACHABLE, detail=detail)
        if isinstance(error, DeadlineExpired) and self._step is Step.CONNECT:
            return Refused(Reason.UNREACHABLE, detail=detail)
        refused = back.lost()
        refused.detail = detail
        return refused

    async def _secure_server(self, side: Side[Back], server: Server) -> None:
        service = self.service
        try:
            side.start_tls(service.outgoing_context, server.host, server=False)
        except PeerGone as error:
            raise ServerLost(error) from None
        try:
            sock = await next_step()
        except ServerLost:
            service.meter.count(metrics.TLS_SERVER_FAILED)
            raise
        service.meter.secured(metrics.TLS_SERVER, sock)
        refusal = service.server_refusal
        if refusal is not None and (why := refusal(sock, server.host)):
            raise ServerLost(PeerGone(f"certificate refused: {why}"))

    def _leave(self) -> None:
        """Give the place at the server to somebody else."""
        server, self.at = self.at, None
        if server is not None:
            self.service.health.leave(server)

    def _drop_server(self) -> None:
        self._tried = 0
        side, self.server = self.server, None
        if side is not None:
            if side.grammar is not None and not side.ended:
                side.send(side.grammar.goodbye())
            side.close()


def _patience(number: int, first: int, last: int) -> float:
    """Seconds that the address of that number has to connect if another follows; 0: all there are.

    From the one behind `first` on, addresses are tried again.
    """
    if last == 1:
        return 0.0
    if number <= first:
        return NEXT_ADDRESS
    return NEXT_AGAIN if number < last else 0.0
