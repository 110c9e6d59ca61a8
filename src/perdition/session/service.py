"""What all sessions of a worker share: made once a worker from the configuration, then only read.

It is the one thing that a session gets; so what a session may know of the world is listed here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from perdition.auth.asking import Asking
from perdition.log import Log
from perdition.metrics import Meter
from perdition.protocols import TlsUse
from perdition.session.addresses import Arrivals, Penalties
from perdition.session.dial import Resolver, Sources
from perdition.session.health import Health
from perdition.session.poller import Poller
from perdition.session.relay import Means
from perdition.session.routing import Routing
from perdition.session.tracing import Traces
from perdition.session.trail import TrailTerms
from perdition.tls_socket import TlsSocket
from perdition.wire.base import Back, BackTerms, Front, FrontTerms, Shortcuts

Network = IPv4Network | IPv6Network


class Due(Protocol):
    """Something with a deadline."""

    slot: Slot | None  # the sweep's; None when nothing is awaited

    def due(self, now: int) -> int:
        """Act if the time has come; return the second at which to ask again, 0 for never."""


class Slot(dict[Due, None]):
    """What is due at one second: a set, but it grows by less at a time."""

    __slots__ = ("second",)

    def __init__(self, second: int) -> None:
        super().__init__()
        self.second = second


class Deadlines(Protocol):
    """The sweep as a session sees it."""

    now: int  # coarse time, whole seconds

    def by(self, thing: Due, second: int) -> None:
        """Ask `thing.due` at `second` or earlier."""

    def forget(self, thing: Due) -> None:
        """Ask `thing.due` no more."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 is no limit where the option says so."""

    authenticate: int
    server: tuple[int, int, int]  # from the start until connected, ready for the login, answered
    soonest: int  # after which the first of all these may be over: who waits is asked so often


@dataclass(frozen=True, slots=True)
class Service:
    """See the fields; `front_terms` gives the terms for the host name that the greeting shows."""

    loop: asyncio.AbstractEventLoop
    poller: Poller
    log: Log
    meter: Meter
    traces: Traces
    sweep: Deadlines
    relaying: Means
    front: type[Front]
    back: type[Back]
    shortcuts: Shortcuts | None  # None: each session has its dialogue from the first byte
    front_terms: Callable[[str], FrontTerms]
    back_terms: BackTerms
    trail_terms: TrailTerms
    arrivals: Arrivals | None  # None: any number of clients may come from one address
    penalties: Penalties | None  # None: nobody waits for a failed login
    header_from: tuple[Network, ...]  # who tells us of clients by the PROXY protocol; empty: nobody
    header_version: int  # of the PROXY protocol toward servers; 0: none
    forward_client: bool  # tell servers who the client is where they take it by a command
    listen_tls: TlsUse
    listen_context: ssl.SSLContext | None
    outgoing_context: ssl.SSLContext | None
    server_refusal: Callable[[TlsSocket, str], str] | None  # judges a server's certificate
    greeting_host: Callable[[str], str | None]  # address reached -> name, None: not known yet
    ask_greeting_host: Callable[[str], Awaitable[None]]  # makes it known
    routing: Routing
    authenticator: Asking | None
    resolver: Resolver
    health: Health
    sources: Sources | None  # None: the kernel chooses where connections to servers come from
    timeouts: Timeouts
    first_due: int  # seconds after a login at which to ask the relay; 0: as ahead of it
    keepalive: bool
    log_dialogue: bool
