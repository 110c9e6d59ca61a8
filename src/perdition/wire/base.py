"""What every grammar promises, and the words in which it speaks with the session.

A `Front` is our half of the talk with the client, a `Back` our half of the talk with the server.
Both get bytes through `receive`, keep what they want sent in a buffer that `take` empties, and
return at most one event a call. **After an event the grammar is held**: `receive` only buffers,
until the session gives its verdict (`refused`, `accepted`, `secured`) and calls ``receive(b"")``
to go on with what is buffered. What is still unread at the end is had with `unread`.

Nothing here may import asyncio, ssl, socket, logging, time or the configuration.
Invariant: the events of a stream do not depend on how it was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from perdition.protocols import TlsUse


class Reason(Enum):
    """Why a login did not succeed; the values are the words of 2.2's log and replies."""

    LOGIN_DISABLED = "Login Disabled"
    NO_SERVER = "Could not determine server"
    NO_ANSWER = "Could not look up server"  # the popmap can't tell; 2.2 took the default server
    UNREACHABLE = "Could not connect to server"
    NEGOTIATION = "Connection Negotiation Failure"
    TLS_MISSING = "TLS not present"
    NO_MECHANISM = "SASL mechanism unavailable"
    NO_LOCAL = "Could not authenticate locally"  # PAM is in trouble, or nobody answers for it
    LOCAL = "local authentication failure"
    REFUSED = "Re-Authentication Failure"
    TEMPORARY = "Temporary Server Failure"  # the server's own word that trying later may help

    @property
    def is_credentials(self) -> bool:
        """Whether name or password were at fault; everything else is nobody's attack."""
        return self in (Reason.REFUSED, Reason.LOCAL)

    @property
    def is_temporary(self) -> bool:
        """Whether the same login may succeed later."""
        return self not in _LASTING


_LASTING = (Reason.REFUSED, Reason.LOCAL, Reason.LOGIN_DISABLED, Reason.NO_SERVER)


@dataclass(slots=True)
class Login:
    """A client's complete set of credentials, or what is to be sent to the server."""

    authentication_id: bytes
    password: bytes = field(repr=False)
    authorisation_id: bytes = b""  # empty: none was given
    disabled: bool = False  # the front may not let it through: refuse it, log it


@dataclass(slots=True)
class StartTls:
    """The peer is ready for the handshake: send what `take` returns, then start TLS."""


@dataclass(slots=True)
class Quit:
    """The client is done, or has used up its patience; send what `take` returns, then close."""

    why: str = ""  # empty: the client asked for it; else words for the log
    limit: str = field(default="", compare=False)  # the option whose bound was reached, if one was


Event = Login | StartTls | Quit


@dataclass(slots=True)
class Accepted:
    """The server let the user in."""

    passed: bytes = b""  # whole lines for the client, ahead of the reply, as they stand
    text: bytes = b""  # the server's reply behind OK/+OK, response code included, no CRLF


@dataclass(slots=True)
class Refused:
    """A login that did not succeed: what the client hears apart from what the log says."""

    reason: Reason
    text: bytes = b""  # the server's own reply, response code included, no CRLF; empty: ours
    status: bytes = b""  # the server's status word (NO, BAD, -ERR), for ``server_resp_line``
    passed: bytes = b""  # whole lines for the client, ahead of the reply, as they stand
    detail: str = ""  # for the log at debug level; never a secret


Outcome = Accepted | Refused | StartTls


@dataclass(slots=True)
class Origin:
    """Who a client is, for a server that wants to know; text that needs no quoting anywhere."""

    client: tuple[str, int]  # address and port
    reached: tuple[str, int]  # where it found us
    session: str  # what the logs of both may call it
    hops: int = 5  # proxies that may follow; a server that hears 0 knows of a loop


def xclient(origin: Origin) -> bytes:
    """The command that tells a Dovecot or Pigeonhole who the client is; no line end."""
    return "XCLIENT ADDR={} PORT={} SESSION={} TTL={}".format(
        *origin.client, origin.session, origin.hops
    ).encode()


@dataclass(frozen=True, slots=True, eq=False)  # so that it is a cheap key
class FrontTerms:
    """What a front needs to know of the configuration; made once a listener."""

    ready: bytes  # b"perdition ready on HOST HEX"
    capability: str  # the protocol's *_capability option
    ok_line: bytes = b"You are so in"
    server_resp_line: bool = False
    hide_server_errors: bool = False
    login_disabled: bool = False
    tls: TlsUse = TlsUse.NONE  # the listening leg
    line_limit: int = 8192  # bytes of one line, CRLF included
    literal_limit: int = 4096  # bytes of one literal
    pipeline_limit: int = 65536  # bytes buffered while held
    bad_command_limit: int = 10  # bad commands a connection; 0: no limit
    failed_login_limit: int = 10  # refused logins a connection; 0: no limit


@dataclass(frozen=True, slots=True, eq=False)  # so that it is a cheap key
class BackTerms:
    """What a back needs to know of the configuration; made once a listener."""

    ready: bytes  # our own greeting's text: a server that says it is ourselves
    tls: TlsUse = TlsUse.NONE  # the outgoing leg
    line_limit: int = 65536  # bytes of one line of the server
    passed_limit: int = 65536  # bytes kept of lines ahead of the reply


# Told of each line of a dialogue, whether it is ours; secrets are masked by the grammar.
Shown = Callable[[bool, bytes], None]


class Front(Protocol):
    """Our half of the talk with a client, up to its login."""

    shown: Shown | None
    out: bytes  # what `take` would return

    def __init__(self, terms: FrontTerms) -> None:
        """Queue the greeting; see `take`."""

    def receive(self, data: bytes) -> Event | None:
        """Take bytes from the client and return the next event, if one is complete."""

    def take(self) -> bytes:
        """Return, once, what is to be sent to the client."""

    @property
    def full(self) -> bool:
        """Whether as much is buffered as may be: stop reading until the verdict."""

    def secured(self) -> Event | None:
        """TLS is up: forget what was learnt in clear; end the hold."""

    def refused(self, refused: Refused) -> Quit | None:
        """Answer the login that is held and end the hold; Quit when that was one too many."""

    def accepted(self, accepted: Accepted) -> None:
        """Answer the login that is held; the front is done but for `take` and `unread`."""

    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        """Queue the protocol's word for an end that the client did not ask for."""

    def unread(self) -> bytes:
        """Return, once, the bytes behind the login, which belong to the server."""


REMEMBERED = 4096  # bytes of a server's words that `Shortcuts` are asked about, at most


class Shortcuts(Protocol):
    """What a grammar tells without a `Front` or `Back` of the session's own; see `imap4_quick`."""

    @staticmethod
    def greeting(terms: FrontTerms) -> bytes:
        """What a client hears first."""

    @staticmethod
    def login(data: bytes, terms: FrontTerms) -> tuple[bytes, Login] | None:
        """The tag and the credentials, if `data` is a login and nothing else."""

    @staticmethod
    def is_plain(login: Login) -> bool:
        """Whether it can be said to a server as it stands."""

    @staticmethod
    def wants_origin(greeted: bytes, terms: BackTerms, is_known: bool) -> bool | None:
        """Whether a server that greets like this hears who the client is, if that is known.

        None: a login does not begin in the usual way there.
        """

    @staticmethod
    def opening(user: Login, origin: Origin | None) -> bytes:
        """The usual beginning."""

    @staticmethod
    def verdict(heard: bytes, terms: BackTerms, is_known: bool) -> Accepted | bool:
        """What a server has said so far, its greeting first, means.

        True: more is to come; False: nothing usual.
        """

    @staticmethod
    def reply(accepted: Accepted, tag: bytes, terms: FrontTerms) -> bytes:
        """What the client hears then."""


class Back(Protocol):
    """Our half of the talk with a server, up to its verdict on one login."""

    shown: Shown | None
    out: bytes  # what `take` would return

    def __init__(
        self, login: Login, terms: BackTerms, *, secure: bool = False, origin: Origin | None = None
    ) -> None:
        """Start with the server's greeting; `secure` says that TLS is up already.

        With `origin`, a server that takes it is told who the client is, ahead of the login.
        """

    def receive(self, data: bytes) -> Outcome | None:
        """Take bytes from the server and return the next outcome; WireError on nonsense."""

    def take(self) -> bytes:
        """Return, once, what is to be sent to the server."""

    @property
    def full(self) -> bool:
        """Never: what a server may say is bounded by `terms`."""

    def secured(self) -> None:
        """TLS is up: forget what was learnt in clear, queue what comes next, end the hold."""

    @property
    def logging_in(self) -> bool:
        """Whether the server has everything but its verdict to say."""

    def lost(self) -> Refused:
        """Say what it means that the server has gone before its verdict."""

    def goodbye(self) -> bytes:
        """Return the protocol's polite end, for a session that was not accepted."""

    def unread(self) -> bytes:
        """Return, once, the bytes behind the verdict, which belong to the client."""
