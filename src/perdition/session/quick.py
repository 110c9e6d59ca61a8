"""The login of most clients in few steps; as soon as anything is unusual the dialogue takes over.

Usual is: the user's servers are well, the first has one address, greets, and says yes. It takes no
coroutine, no grammar for the server (what its words mean is remembered from the first time), and
none for the client either if the first that it says is a login. All else (other servers, failed
logins, deadlines, ends, STARTTLS) is in `login` and `attempts`, which go on from where this has
come to: `give_up`. What a protocol knows at a glance is in its `perdition.wire.base.Shortcuts`.
As long as nothing waits to be sent a bare socket does: a `Side` is made of it when it takes one.
Invariant: peers, log and counts see what they would see without this.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

from perdition import metrics
from perdition.errors import MapError, PerditionError
from perdition.session.dial import SockAddress, open_socket
from perdition.session.routing import Found
from perdition.session.side import Side, begun, said, untaken
from perdition.session.stepped import ServerLost
from perdition.session.trail import secure_word
from perdition.tls_socket import WANTS, TlsSocket
from perdition.wire.base import (
    REMEMBERED,
    Accepted,
    Back,
    Event,
    Front,
    FrontTerms,
    Login,
    Shortcuts,
)

if TYPE_CHECKING:
    from perdition.session.login import Session


class Quick:
    """One session up to its login, and for the dialogue what has been done toward it."""

    __slots__ = (
        "_finding", "_found", "_heard", "_is_known", "_login", "_lost", "_said", "_saying",
        "_server", "_shortcuts", "_tag", "_terms", "_waits", "address", "session", "sock",
        "started",
    )  # fmt: skip

    def __init__(
        self, session: Session, sock: socket.SocketType, terms: FrontTerms, shortcuts: Shortcuts
    ) -> None:
        """To be begun by `secure` or `greet`."""
        self.session = session
        self.sock = sock  # the client's
        self._shortcuts = shortcuts
        self._terms = terms
        self._login: Any = None  # the Login under way
        self._said = b""  # by a client that has no grammar yet: that login,
        self._tag: bytes  # and its tag
        self._finding: Coroutine[Any, Any, Found] | None = None
        self._found: Found | str | None = None  # str: why there is no telling
        self._server: Any = None  # its socket
        self._saying = b""  # behind the batch: to the client, and once there is one to the server
        self._heard = b""  # from the server
        self._is_known = False  # who the client is, so that the server may be told
        self._waits = False  # for the rest of its answer
        self._lost: PerditionError | None = None  # what became of it
        self.address: SockAddress  # of the server
        self.started: float  # when the login began; monotonic

    # -- the client -------------------------------------------------------------------------

    def secure(self) -> None:
        """Have TLS, and greet the client then."""
        session = self.session
        client = session.meet(self.sock)
        client.on_event, client.on_lost = self._secured, self._client_lost
        client.start_tls(session.service.listen_context, None, server=True)

    def _secured(self, sock: TlsSocket) -> None:
        service = self.session.service
        if service.traces.wanted:  # which begin with the greeting
            self.give_up()
            self.session.step(sock)
            return
        service.meter.secured(metrics.TLS_CLIENT, sock)
        self.sock = sock
        self.greet()

    def greet(self) -> None:
        """Greet the client."""
        client = self.session.client
        greeting = self._shortcuts.greeting(self._terms)
        poller = self.session.service.poller
        if client is None:
            self._saying = greeting
            poller.later(self._say)
        else:
            client.send(greeting)
            client.reading = False  # for `resume`, if it comes to that
        poller.add_reader(self.sock.fileno(), self._client_says)

    def _client_says(self) -> None:
        session = self.session
        if self._login is not None:  # it does not wait for its login
            self.give_up()
            if not session.over:
                session.client._readable()
            return
        try:
            data = said(self.sock)
        except WANTS:
            return
        except OSError as error:
            self.give_up()
            if not session.over:
                session.client.failed(error)
            return
        found = self._shortcuts.login(data, self._terms)
        if found is None:
            self._listen().hear(data)
            return
        self._tag, login = found
        self._said = data
        self._log_in(login)

    def _listen(self) -> Side[Front]:
        """What the client says takes a grammar."""
        session = self.session
        client = session.client or session.meet(self.sock)
        front = client.grammar = session.service.front(self._terms)
        front.take()  # the greeting
        client.on_event, client.on_lost = self._asked, self._client_lost
        if client.fd >= 0:
            client.resume()
        return client

    def _client_lost(self, error: PerditionError) -> None:
        self.give_up()
        self.session._client_lost(error)

    def _asked(self, event: Event) -> None:
        """The client has said something that is not answered by its grammar."""
        if isinstance(event, Login) and self._shortcuts.is_plain(event):
            self._log_in(event)
        else:
            self.give_up(event)

    def _log_in(self, login: Login) -> None:
        self._login = login
        self.started = time.monotonic()
        if not self._begin(login):
            self.give_up()

    # -- the server -------------------------------------------------------------------------

    def _begin(self, login: Login) -> bool:
        """Begin to connect; False: something is unusual about the login, or about its server."""
        session = self.session
        service, trail = session.service, session.trail
        name = login.authentication_id
        penalties = service.penalties
        if penalties is not None and penalties.known(
            penalties.key(trail.client[0] if trail.client else "", name)
        ):
            return False
        routing = service.routing
        found = (routing.defaults.turn(), name) if routing.is_fixed else self._look_up(name)
        if found is None:
            return False
        self._found = servers, user = found
        if not servers or user != name or not service.health.are_well(servers):
            return False
        server = servers[0]
        addresses = service.resolver.known(server)
        if len(addresses) != 1 or not service.health.enter(server):
            return False
        session.at = server
        self.address = addresses[0]
        try:
            sock = open_socket(self.address[0], service.sources, keepalive=service.keepalive)
        except OSError:
            session._leave()
            return False
        self._server = sock
        service.poller.later(self._connect)
        service.poller.add_reader(sock.fileno(), self._server_says)
        session._expect_connection(0.0)
        trail.name(login)
        return True

    def _connect(self) -> None:
        """Begin to, behind the batch; whoever has taken over may have hung up in it."""
        server = self._server
        if server.fileno() < 0:
            return
        error = begun(server, self.address[1])
        if error is None:
            return
        side = self.session.server
        if side is not None:
            side._lose(error)
        else:
            self._lost = error
            self.give_up()

    def _look_up(self, name: bytes) -> Found | None:
        """What the map says at once; None: it has to be waited for, or can't tell."""
        session = self.session
        trail = session.trail
        self._finding = finding = session.service.routing.find(
            name, trail.client, trail.reached, session._driver
        )
        try:
            finding.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except MapError as error:
            self._found = str(error)
        return None

    def _server_says(self) -> None:
        try:
            data = said(self._server)
        except WANTS:
            return
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # see `Side.failed`
                side = self.give_up()
                if not self.session.over:
                    side.failed(error)
            return
        heard = self._heard + data
        outcome: Accepted | bool = False
        if data and len(heard) <= REMEMBERED:
            outcome = self._server_answers(heard) if self._heard else self._server_greets(heard)
        if outcome is False:
            side = self.give_up()
            if not self.session.over:
                side.hear(data)
            return
        self._heard = heard
        if outcome is not True:
            self._accepted(outcome)

    def _server_greets(self, heard: bytes) -> bool:
        """Begin to log in at a server that has said this; False: it is unusual."""
        session, shortcuts = self.session, self._shortcuts
        service = session.service
        origin = session.trail.origin() if service.forward_client else None
        self._is_known = origin is not None
        wants = shortcuts.wants_origin(heard, service.back_terms, self._is_known)
        if wants is None:
            return False
        self._saying = shortcuts.opening(self._login, origin if wants else None)
        service.poller.later(self._say)
        return True

    def _say(self) -> None:
        """Say what is to be said, unless who has taken over did."""
        if self._saying:
            self._saying = untaken(self._server or self.sock, self._saying)
            if self._saying:
                self.give_up()

    def _server_answers(self, heard: bytes) -> Accepted | bool:
        """What a server means that has said all this; True: more is to come, which may be once."""
        outcome = self._shortcuts.verdict(heard, self.session.service.back_terms, self._is_known)
        if outcome is True:
            if self._waits:
                return False
            self._waits = True
        return outcome

    def _accepted(self, accepted: Accepted) -> None:
        """The user is in."""
        session = self.session
        service, client = session.service, session.client
        server: Any = session.at
        seconds = time.monotonic() - self.started
        service.health.answered(server, seconds)
        if service.health.works(server):
            session.answers_again(server)
        session.trail.verdict(
            self._login, secure_word(self.sock, service.listen_tls), "plaintext", str(server), None
        )
        service.meter.login(None, seconds)
        front = client.grammar if client is not None else None
        if front is None:
            reply, early = self._shortcuts.reply(accepted, self._tag, self._terms), b""
        else:
            front.accepted(accepted)
            reply, early = front.take(), front.unread()
        if client is not None:
            reply = client.release() + reply
        relay = session.hand_over(self.sock, self._server)
        relay.down.start(reply)
        if not relay.closed:
            relay.up.start(b"", early)

    # -- whatever is unusual ----------------------------------------------------------------

    def stand_back(self) -> Any:
        """Make sides of the sockets; the server's."""
        session = self.session
        client, side = session.client or session.meet(self.sock), session.server
        client.on_event, client.on_lost = session.step, session._client_lost
        if side is None and self._server is not None:
            side = session.approach(self._server)
        saying, self._saying = self._saying, b""
        (side or client).send(saying)
        return side

    def give_up(self, event: Event | None = None) -> Any:
        """Have the dialogue take over, with an `event` or the login under way; the server's side.

        It may be over when this returns.
        """
        session = self.session
        event = event or self._login
        client = session.client
        if client is None or (client.sock is self.sock and client.grammar is None):  # greeted
            client = self._listen()
            if self._said:
                event = client.grammar.receive(self._said)
        side = self.stand_back()
        if self._found is None and self._finding is None:
            session.quick = None
        session.go_on(session.client.grammar, event)
        return side

    async def route(self) -> Found:
        """What has been found already, or will be."""
        if isinstance(self._found, str):
            raise MapError(self._found)
        if self._found is None:
            assert self._finding is not None
            return await _rest_of(self._finding)
        return self._found

    def catch_up(self, back: Back) -> None:
        """Tell the grammar of the server's side what it has missed; ServerLost: its end."""
        if self._lost is not None:
            raise ServerLost(self._lost)
        if self._heard:
            back.receive(self._heard)
            back.take()


@coroutine
def _rest_of(begun: Coroutine[Any, Any, Found]) -> Generator[Any, Any, Found]:
    """Awaited, the rest of a coroutine that waits for something already."""
    try:
        while True:
            begun.send((yield))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        begun.close()
