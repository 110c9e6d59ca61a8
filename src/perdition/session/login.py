"""One session, and its dialogue from the greeting to the relay, read from top to bottom.

How a client comes to its greeting is in `arrival`; as long as all is usual `quick` is in charge.
What moves the dialogue is in `stepped`. While a login is under way the client's grammar is held, so
only the server, the clock or the end of the client can wake it.
Invariant: whatever happens, a session ends once, by `_finish` or behind its relay; both sockets are
closed or with the relay, and a client that can still be answered has been answered.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from perdition import metrics
from perdition.auth.asking import Asking, AuthError
from perdition.errors import DeadlineExpired, MapError, PeerGone, PerditionError
from perdition.protocols import TlsUse
from perdition.route import Server
from perdition.session.arrival import Arrival
from perdition.session.quick import Quick
from perdition.session.relay import IDLE, Relay
from perdition.session.service import Service
from perdition.session.side import Side
from perdition.session.stepped import next_step
from perdition.session.trail import Address, Trail, plain_host, secure_word
from perdition.tls_socket import TlsSocket
from perdition.username import State
from perdition.wire.base import (
    Accepted,
    Event,
    Front,
    FrontTerms,
    Login,
    Reason,
    Refused,
    Shortcuts,
    StartTls,
)

DRAINED = 65536  # bytes of a client thrown away at the end, so that it can read our last word


class Session(Arrival):
    """One client; `ended` is called once, when it is gone."""

    __slots__ = (
        "_counted", "_held", "complete", "ended", "relay",
    )  # fmt: skip

    _held: bool  # whether a login is under way

    def __init__(
        self,
        service: Service,
        sock: socket.SocketType,
        peer: Address | None,
        reached: Address | None,
        ended: Callable[[Session], None],
        *,
        refuse: int = 0,
    ) -> None:
        """Greet the client; with `refuse`, the connection_limit, tell it to come back."""
        super().__init__(service)
        self.ended = ended
        self.at = self.quick = self.server = self.trace = None
        self.relay: Relay | None = None
        self.client = None  # type: ignore[assignment] # as long as `quick` does without
        self.trail = Trail(service.log, service.trail_terms, peer, reached)
        self.complete = False  # whether the client logged in, or left of its own will
        self._arrival = 0
        self._counted = (0, 0)  # relayed bytes that the metrics have heard of, up and down
        try:
            if not refuse and self._begin_at_once(sock):
                return
        except Exception as error:  # one of five doors: a fault of ours costs one session
            if self.client is None:
                self.meet(sock)
            self.fault(error)
            return
        self.meet(sock)
        self._coro = self._dialogue(refuse)
        self.step(None)

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self.quick is None and self._coro is None and self.relay is None

    @property
    def sock(self) -> socket.SocketType:
        """The client's, with TLS if there is."""
        if self.relay is not None:
            return self.relay.up.source
        return self.quick.sock if self.client is None else self.client.sock

    def meet(self, sock: socket.SocketType) -> Side[Front]:
        """Make of the client's socket what it is to the dialogue."""
        client = self.client = Side(self.service.poller, sock, self.step, self._client_lost)
        return client

    def _client_lost(self, error: PerditionError) -> None:
        # A clean end while a login is under way may be half a close: the answer is still read.
        if self._held and self.client.ended and isinstance(error, PeerGone):
            return
        self.step(None, error)

    def _crashed(self) -> None:
        if self.relay is not None:
            self.relay.close("internal error")
            return
        if self.quick is not None:
            self.quick.stand_back()
        if self.client is not None:
            self._finish("internal error")

    # -- the dialogue -----------------------------------------------------------------------

    def _ended_by(self, error: PerditionError) -> None:
        """The dialogue had to end before a login."""
        meter, front = self.service.meter, self.client.grammar
        if isinstance(error, PeerGone):
            if self._held:
                meter.count(metrics.LOGIN_CLIENT_GONE)
            self._finish("client gone")
        elif isinstance(error, DeadlineExpired):
            meter.count(metrics.LIMIT["authenticate_timeout"])
            if self._held:
                meter.count(metrics.LOGIN_TIMED_OUT)
            if front is not None:
                front.goodbye("Timeout: no login in time", unavailable=False)
                self.client.send(front.take())
            self.trail.timed_out()
            self._finish("", quiet=True)
        else:
            self._finish(str(error))

    def _be_quick(self, sock: socket.SocketType, terms: FrontTerms, shortcuts: Shortcuts) -> None:
        quick = self.quick = Quick(self, sock, terms, shortcuts)
        if self.service.listen_tls is TlsUse.SSL and not isinstance(sock, TlsSocket):
            quick.secure()
        else:
            quick.greet()

    def go_on(self, front: Front | None, event: Event | None) -> None:
        """Have the dialogue from here on; without a `front` from the handshake on."""
        self._coro = self._dialogue(0, front, event)
        self.step(None)

    async def _dialogue(
        self, refuse: int, front: Front | None = None, event: Event | None = None
    ) -> None:
        """The whole session up to the relay: a greeting, commands until the client is in."""
        self._held = False
        front = front or await self._greet(refuse)
        if front is None:
            return
        client = self.client
        event = event or await next_step()
        while True:
            if isinstance(event, Login):
                self._held = True
                refused = await self._log_in(front, event)
                self._held = False
                if refused is None:
                    return
                event = front.refused(refused)
            elif isinstance(event, StartTls):
                if not await self._secure("TLS connection"):
                    return
                event = front.secured()
            else:
                self.complete = not event.why
                if event.limit:
                    self.service.meter.count(metrics.LIMIT[event.limit])
                self._finish(event.why)
                return
            event = event or front.receive(b"")
            client.send(front.take())
            if event is None:
                if client.ended:
                    raise PeerGone("connection closed")
                client.resume()
                event = await next_step()

    async def _log_in(self, front: Front, login: Login) -> Refused | None:
        """Find the server and log in there; None: the relay has taken over."""
        self.trail.name(login)
        if self.trace is not None:
            self.trace.login(login)
        penalties, key, known = self.service.penalties, 0, False
        if penalties is not None:
            host = self.trail.client[0] if self.trail.client else ""
            key = penalties.key(host, login.authentication_id)
            known = self.quick is None and penalties.known(key)
            if known:
                await self._pause(penalties.wait(key))
        started = self.quick.started if self.quick is not None else time.monotonic()
        outcome: Accepted | Refused
        if login.disabled:
            outcome = Refused(Reason.LOGIN_DISABLED)
            self._verdict(login, "(null):(null)", outcome.reason)
        else:
            found = await self._find(login)
            outcome = found if isinstance(found, Refused) else await self._try_servers(*found)
        self.quick = None
        meter = self.service.meter
        if isinstance(outcome, Accepted):
            meter.login(None, time.monotonic() - started)
            if penalties is not None and known:
                penalties.forgive(key)
            front.accepted(outcome)
            client, server = self.client, self.server
            assert server is not None
            relay = self.hand_over(client.sock, server.sock)
            relay.up.ended = int(client.ended)
            relay.down.start(client.release() + front.take(), server.grammar.unread())
            if not relay.closed:
                relay.up.start(server.release(), front.unread())
            return None
        meter.login(outcome.reason, time.monotonic() - started)
        if penalties is not None and not outcome.reason.is_temporary:
            await self._pause(penalties.failed(key))
        return outcome

    async def _find(self, login: Login) -> tuple[Login, Login, tuple[Server, ...]] | Refused:
        """The login under its final name, as the servers get it, and these; a refusal is logged."""
        service, trail = self.service, self.trail
        name = login.authorisation_id or login.authentication_id
        try:
            if self.quick is not None:
                servers, user = await self.quick.route()
            else:
                servers, user = await service.routing.find(
                    name, trail.client, trail.reached, self._driver
                )
            for_server = user
            if service.routing.changes_names:
                for_server = await service.routing.server_name(
                    user, State.REMOTE_LOGIN, trail.reached, self._driver
                )
        except MapError as error:
            self._verdict(login, "", Reason.NO_ANSWER)
            return Refused(Reason.NO_ANSWER, detail=str(error))
        if user != name:
            login = _renamed(login, user)
            trail.name(login)
        if service.authenticator is not None:
            refused = await self._refused_here(service.authenticator, login, user)
            if refused is not None:
                self._verdict(login, str(servers[0]) if servers else "", refused.reason)
                return refused
        return login, login if for_server == user else _renamed(login, for_server), servers

    async def _refused_here(
        self, authenticator: Asking, login: Login, user: bytes
    ) -> Refused | None:
        """Have the password checked before any server hears it; None: it is right."""
        trail = self.trail
        name = await self.service.routing.server_name(
            user, State.LOCAL_AUTHENTICATION, trail.reached, self._driver
        )
        host = trail.client[0] if trail.client else ""
        try:
            if await self._driver(authenticator.check(name, login.password, host)):
                return None
        except AuthError as error:
            self.service.log.err(f"local authentication: {error}")
            return Refused(Reason.NO_LOCAL)
        self.service.log.info("Local authentication failure for client: Allowing retry.")
        return Refused(Reason.LOCAL)

    def _verdict(
        self, login: Login, server: str, failure: Reason | None, server_secure: str = "plaintext"
    ) -> None:
        client_secure = secure_word(self.sock, self.service.listen_tls)
        self.trail.verdict(login, client_secure, server_secure, server, failure)
        if self.trace is not None:
            status = "ok" if failure is None else f"failed: {failure.value}"
            self.trace.note(
                f"{status} client-secure={client_secure} server={server or 'none'} "
                f"server-secure={server_secure}"
            )

    async def _pause(self, seconds: float) -> None:
        """Let this client wait; nobody else waits with it."""
        if seconds:
            timer = self.service.loop.call_later(seconds, self.step, None)
            try:
                await next_step()
            finally:
                timer.cancel()

    # -- the end ----------------------------------------------------------------------------

    def hand_over(self, client: socket.SocketType, server: socket.SocketType) -> Relay:
        """The client is in: what moves its bytes from here on, to be started."""
        service = self.service
        self._arrived()
        if self.trace is not None:
            self.trace.logged_in()
        self.complete = True
        relay = self.relay = Relay(service.relaying, client, server, self)
        self._coro = self.quick = None
        self.client = self.server = None  # type: ignore[assignment]
        if service.trail_terms.connect_relog:
            self.trail.said_at = relay.active
        if service.first_due:
            service.sweep.by(self, relay.active + service.first_due)
        return relay

    def due(self, now: int) -> int:
        """Act on the deadline that has come, of the dialogue or of the relay."""
        relay, trail = self.relay, self.trail
        if relay is None:
            if self.quick is not None and self._coro is None:
                due = self._deadline()
                if not due or now < due:
                    return self._ask_again(now)
                self.quick.give_up()
            return super().due(now)
        if trail.relog_at and now >= trail.relog_at:
            trail.relog(now)
            self._count_bytes(relay.up.count, relay.down.count)
        again = relay.due(now)
        if relay.closed or not trail.relog_at:
            return again
        return min(again, trail.relog_at) if again else trail.relog_at

    def relay_due_by(self, second: int) -> None:
        """The relay has something to do by then."""
        self.service.sweep.by(self, second)

    def relay_ended(self, relay: Relay, why: str) -> None:
        """Nothing moves any more: say so."""
        received, sent = relay.up.count, relay.down.count
        self._count_bytes(received, sent)
        if self.trace is not None:
            self.trace.note(f"ends: received={received} sent={sent} {why}")
        service = self.service
        if why == IDLE:
            service.meter.count(metrics.LIMIT["timeout"])
        self.relay = None
        self._leave()
        service.sweep.forget(self)
        self.trail.closed(received, sent, why)
        self.ended(self)

    def _count_bytes(self, received: int, sent: int) -> None:
        """Count what has moved since the last time."""
        cells, (up, down) = self.service.meter.cells, self._counted
        cells[metrics.RECEIVED] += received - up
        cells[metrics.SENT] += sent - down
        self._counted = received, sent

    def abort(self, why: str) -> None:
        """End the session because the daemon wants it; a client before its login is told."""
        if self.relay is not None:
            self.relay.close(why)
            return
        if self.quick is not None and self._coro is None:
            self.quick.give_up()
        if self._coro is not None:
            front = self.client.grammar
            if front is not None:
                front.goodbye(why, unavailable=True)
                self.client.send(front.take())
            self._coro.close()
            self._coro = None
            self._finish(why)

    def _finish(self, why: str, *, quiet: bool = False) -> None:
        if self.trace is not None:
            self.trace.note(f"ends without a login: {why or 'closed'}")
        self._drop_server()
        self._leave()
        self._arrived()
        self.quick = None
        self.service.sweep.forget(self)
        self.client.close(drain=DRAINED)
        if not quiet:
            self.trail.closed_without_login(why)
        self.ended(self)
        self.client = None  # type: ignore[assignment] # no cycle is left to the garbage collector


def address_of(name: object) -> Address | None:
    """Host and port of what getpeername and its like say, None where that is no IP address."""
    if not isinstance(name, tuple) or not name:
        return None
    return plain_host(name[0]), name[1]


def _renamed(login: Login, user: bytes) -> Login:
    """The login of the same user under another name."""
    if login.authorisation_id:
        return Login(login.authentication_id, login.password, user)
    return Login(user, login.password)
