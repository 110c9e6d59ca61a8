"""A client arrives: who it is, whether there is room, TLS where it comes first, the greeting.

Invariant: who is counted in at an address is counted out once, with the login or the end.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from perdition import metrics, proxy_header
from perdition.errors import PeerGone, WireError
from perdition.protocols import TlsUse
from perdition.session.attempts import Attempts
from perdition.session.service import Network
from perdition.session.side import Side
from perdition.session.stepped import next_step
from perdition.session.trail import dialogue_log, plain_host
from perdition.tls_socket import TlsSocket
from perdition.wire.base import Front, FrontTerms, Shortcuts


class Arrival(Attempts):
    """The first part of a session; who inherits says what follows the greeting."""

    __slots__ = ("_arrival", "client")

    client: Side[Front]
    _arrival: int  # the place where it counts as not logged in; 0: it does not

    def _be_quick(self, sock: socket.SocketType, terms: FrontTerms, shortcuts: Shortcuts) -> None:
        """Greet a client with whom all is usual up to now, behind a handshake if there is one."""
        raise AssertionError

    def _finish(self, why: str, *, quiet: bool = False) -> None:
        """End the session ahead of a login."""
        raise AssertionError

    def _begin_at_once(self, sock: socket.SocketType) -> bool:
        """Begin the handshake, or greet the client, if all is usual; else do nothing."""
        service, trail = self.service, self.trail
        shortcuts = service.shortcuts
        if shortcuts is None or service.traces.wanted or service.header_from:
            return False
        host = service.greeting_host(trail.reached[0] if trail.reached else "")
        if host is None or not self._arrive():
            return False
        trail.connected()
        self._be_quick(sock, service.front_terms(host), shortcuts)
        return True

    async def _greet(self, refuse: int) -> Front | None:
        """TLS where it comes first, then the greeting; None when the session has ended."""
        service, client = self.service, self.client
        if service.header_from and not await self._read_header(service.header_from):
            return None
        is_tls = service.listen_tls is TlsUse.SSL
        begun = isinstance(client.sock, TlsSocket)  # by `quick`, in the middle of the handshake
        crowded = not (refuse or begun) and self._crowded()
        if crowded and is_tls:
            self._finish("", quiet=True)  # what a handshake costs is what they may be after
            return None
        if not (crowded or begun):
            self.trail.connected()
        if is_tls and not await self._secure("SSL connection to client"):
            return None
        reached = self.trail.reached[0] if self.trail.reached else ""
        host = service.greeting_host(reached)
        if host is None:
            client.pause()  # nobody reads it yet
            await self._driver(service.ask_greeting_host(reached))
            host = service.greeting_host(reached) or reached
        terms = service.front_terms(host)
        if not (refuse or crowded or service.shortcuts is None or service.traces.wanted):
            self._be_quick(client.sock, terms, service.shortcuts)
            return None
        front = service.front(terms)
        if service.log_dialogue:
            front.shown = dialogue_log(service.log, "CLIENT")
        if service.traces.wanted:
            self.trace = service.traces.begin(service.log.ident, self.trail.ft)
            if self.trace is not None:
                front.shown = self.trace.shown("client", front.shown)
        if refuse:
            self.trail.over_limit("connection_limit", refuse)
        if refuse or crowded:
            front.take()
            front.goodbye("Too many connections, try again later", unavailable=True)
            client.send(front.take())
            self._finish("", quiet=True)
            return None
        client.grammar = front
        client.send(front.take())
        client.resume()
        return front

    def _arrive(self) -> bool:
        """Count the client in at its address; False if there is no room for it."""
        arrivals, client = self.service.arrivals, self.trail.client
        if arrivals is None or client is None:
            return True
        place = arrivals.enter(arrivals.key(client[0]))
        if place < 0:
            return False
        self._arrival = place
        return True

    def _crowded(self) -> bool:
        """Count the client in at its address; True, logged, if there is no room for it."""
        arrivals = self.service.arrivals
        if self._arrive() or arrivals is None:
            return False
        self.service.meter.count(metrics.LIMIT["address_connection_limit"])
        self.trail.over_limit("address_connection_limit", arrivals.limit)
        return True

    def _arrived(self) -> None:
        """The client is in, or gone: its place among those to come is free."""
        if self._arrival and self.service.arrivals is not None:
            self.service.arrivals.leave(self._arrival)
            self._arrival = 0

    async def _read_header(self, trusted: tuple[Network, ...]) -> bool:
        """Learn from the PROXY protocol who the client is; False, logged, where that failed."""
        trail = self.trail
        host = trail.client[0] if trail.client else ""
        try:
            if not host or not any(ip_address(host) in network for network in trusted):
                raise WireError("not in proxy_protocol_networks")
            self.client.await_header(proxy_header.size)
            ends = proxy_header.read(await next_step())
        except WireError as error:
            self.service.log.err(f"refused:{trail.ft} {error}")
            self._finish("", quiet=True)
            return False
        if ends is not None:
            (client, port), (reached, at) = ends
            trail.between((plain_host(client), port), (plain_host(reached), at))
        return True

    async def _secure(self, what: str) -> bool:
        """Have the client's TLS up; False, logged, when that failed."""
        service = self.service
        try:
            if not isinstance(self.client.sock, TlsSocket):
                self.client.start_tls(service.listen_context, None, server=True)
            sock = await next_step()
        except PeerGone as error:
            service.meter.count(metrics.TLS_CLIENT_FAILED)
            self.trail.tls_failed(what, str(error))
            self._finish("", quiet=True)
            return False
        service.meter.secured(metrics.TLS_CLIENT, sock)
        return True
