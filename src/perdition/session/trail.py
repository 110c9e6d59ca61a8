"""What the log says of one connection: the lines that administrators and fail2ban read.

The templates are API: other programs parse them. Source: section 5 of the description of 2.2.
A password is written only where ``log_passwd`` says so.
An idle session is little more than its trail: what a later line can be made of is kept once, and
what only a login needs is let go of with the verdict.
"""

from __future__ import annotations

import json
import os
import socket
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

from perdition.log import INFO, NOTICE, Line, Log, text_of
from perdition.protocols import TlsUse
from perdition.tls_socket import TlsSocket
from perdition.wire.base import Login, Origin, Reason, Shown

_NOBODY = 'authorisation_id=NONE authentication_id="(null)"'

Address = tuple[str, int]  # what getpeername says of an IP socket, cut to host and port


def _names() -> Iterator[str]:
    own = urlsafe_b64encode(os.urandom(9)).decode("ascii")
    return map((own + "{:x}").format, count())


@dataclass(frozen=True, slots=True, eq=False)  # so that it is a cheap key
class TrailTerms:
    """What of the configuration shapes the lines."""

    protocol: str  # name in the log
    outgoing_port: str
    log_passwd: str = "never"
    connect_relog: int = 0  # seconds
    connect_tail: str = ""  # what the Connect line ends with
    sessions: Iterator[str] = field(default_factory=_names)  # no two alike, of all workers


def plain_host(host: str) -> str:
    """Write an IPv4 address that came in on an IPv6 socket as what it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


class Trail:
    """The lines of one client's connection, from Connect to Closing."""

    __slots__ = (
        "_client_secure", "_other", "_outcome", "_user", "authentication_id", "authorisation_id",
        "client", "ft", "log", "reached", "said_at", "session", "terms",
    )  # fmt: skip

    def __init__(
        self, log: Log, terms: TrailTerms, client: Address | None, reached: Address | None
    ) -> None:
        self.log = log
        self.terms = terms
        self.between(client, reached)
        self.authentication_id = self.authorisation_id = ""
        self.session = ""  # what servers are told to call it
        self.said_at = 0  # sweep's second of the last Auth line, if it is to be said again

    def between(self, client: Address | None, reached: Address | None) -> None:
        """The connection is from `client` to `reached`, wherever the socket may come from."""
        self.client = client  # both up to the login; `ends` tells them at any time
        self.reached = reached
        if client is None or reached is None:
            self.ft = ""
        else:
            self.ft = f" {client[0]}:{client[1]}->{reached[0]}:{reached[1]}"

    def ends(self) -> tuple[Address | None, Address | None]:
        """The addresses of the client and where it reached us."""
        if not self.ft:
            return self.client, self.reached
        client, _, reached = self.ft[1:].partition("->")
        return _address(client), _address(reached)

    def origin(self) -> Origin | None:
        """Who the client is, for servers; None where nobody knows."""
        if self.client is None or self.reached is None:
            return None
        if not self.session:
            self.session = next(self.terms.sessions)
        return Origin(self.client, self.reached, self.session)

    def _fields(self, event: str, **more: object) -> dict[str, object] | None:
        if not self.log.as_json:
            return None
        fields: dict[str, object] = {"event": event, "protocol": self.terms.protocol}
        client, reached = self.ends()
        if client is not None and reached is not None:
            fields["client"], fields["client_port"] = client
            fields["local"], fields["local_port"] = reached
        if self.session:
            fields["session"] = self.session
        if self.authentication_id:
            fields["authentication_id"] = self.authentication_id
        if self.authorisation_id:
            fields["authorisation_id"] = self.authorisation_id
        fields.update(more)
        return fields

    def connected(self) -> None:
        """A client came."""
        log = self.log
        if log.most >= INFO:
            fields = self._fields("connect") if log.as_json else None
            log.put(INFO, ("Connect: ", self.ft, self.terms.connect_tail), fields)

    def name(self, login: Login) -> None:
        """Credentials came; the lines to come are about this user."""
        user, other = text_of(login.authentication_id), login.authorisation_id
        self.authentication_id = user
        self._user = self._quoted(user)
        if other:
            self.authorisation_id = text_of(other)
            self._other = f'"{self._quoted(self.authorisation_id)}"'
        else:
            self.authorisation_id, self._other = "", "NONE"

    def verdict(
        self, login: Login, client_secure: str, server_secure: str, server: str,
        failure: Reason | None,
    ) -> None:  # fmt: skip
        """A login ended: the Auth line. `server` is ``host:port``, empty when there was none."""
        log = self.log
        self._client_secure = client_secure
        self._outcome = _outcome(self.terms, server, server_secure, failure, log.shown)
        if log.debugging:
            self._outcome = self._passwd(login, failure) + self._outcome
        if log.most >= NOTICE:
            log.put(NOTICE, self._auth(), self._fields(
                "auth", client_secure=client_secure, server=server, server_secure=server_secure,
                status=_status(failure),
            ) if log.as_json else None)  # fmt: skip
        if failure is None:
            self.client = self.reached = None
            if not log.as_json:
                self.session = ""
        if failure is not None or not self.terms.connect_relog:
            self._outcome = ""  # never said again, and there may be a password in it

    def _auth(self) -> Line:
        return (
            "Auth:", self.ft, " client-secure=", self._client_secure, " authorisation_id=",
            self._other, ' authentication_id="', self._user, '"', self._outcome,
        )  # fmt: skip

    def _quoted(self, text: str) -> str:
        """A quoted value as it stands in a line, with what would end it escaped."""
        if text.isprintable() and '"' not in text and "\\" not in text:
            return text
        return self.log.shown(text.replace("\\", "\\\\").replace('"', '\\"'))

    def _passwd(self, login: Login, failure: Reason | None) -> str:
        mode = self.terms.log_passwd
        if mode == "never" or not self.log.debugging:
            return ""
        if mode in ("always", "ok" if failure is None else "fail"):
            return f' passwd="{self._quoted(text_of(login.password))}"'
        return ""

    @property
    def relog_at(self) -> int:
        """The sweep's second of the next Auth line; 0: none."""
        return self.said_at and self.said_at + self.terms.connect_relog

    def relog(self, now: int) -> None:
        """Say the Auth line of a session that lasts again."""
        if self.log.most >= NOTICE:
            self.log.put(NOTICE, self._auth(), self._fields("relog"))
        self.said_at = now

    def closed(self, received: int, sent: int, why: str = "") -> None:
        """A session with a login ended; the counts are bytes after the login."""
        log = self.log
        if log.most < INFO:
            return
        if why:
            log.info(why, self._fields("timeout"))
        log.put(
            INFO,
            (
                "Closing session:", self.ft, " authorisation_id=", self._other,
                ' authentication_id="', self._user, '" received=', str(received),
                " sent=", str(sent),
            ),
            self._fields("close", received=received, sent=sent) if log.as_json else None,
        )  # fmt: skip

    def closed_without_login(self, why: str = "") -> None:
        """The client left before a login: its own wish, or `why`."""
        tail = f" ({why})" if why else ""
        self.log.info(
            f"Closing NULL session:{self.ft} {_NOBODY}{tail}",
            self._fields("close", received=0, sent=0, reason=why),
        )

    def timed_out(self) -> None:
        """The client did not log in in time."""
        self.log.err(
            "Fatal Error: Timeout reading authentication information from client"
            f"{self.ft}: Exiting child",
            self._fields("timeout"),
        )

    def tls_failed(self, what: str, why: str) -> None:
        """A handshake failed; `what` is ``SSL connection to client`` and its like."""
        self.log.err(
            f"Fatal error establishing {what}{self.ft}: {why}", self._fields("tls", reason=why)
        )

    def over_limit(self, name: str, limit: int) -> None:
        """The client was one too many, by the option `name`."""
        self.log.err(
            f"{name} {limit} reached: client refused:{self.ft}", self._fields(name, limit=limit)
        )


def secure_word(sock: socket.SocketType, use: TlsUse) -> str:
    """How the log says whether a connection is encrypted."""
    if not isinstance(sock, TlsSocket):
        return "plaintext"
    return "ssl" if use is TlsUse.SSL else "starttls"


def _status(failure: Reason | None) -> str:
    return "ok" if failure is None else f"failed: {failure.value}"


@lru_cache(maxsize=1024)  # few are different: the sessions share them
def _outcome(
    terms: TrailTerms, server: str, server_secure: str, failure: Reason | None,
    shown: Callable[[str], str],
) -> str:  # fmt: skip
    """How the Auth line ends; a password is never in here."""
    server = server or f"(null):{terms.outgoing_port}"
    return shown(
        f' server="{server}" protocol={terms.protocol} server-secure={server_secure} '
        f'status="{_status(failure)}"'
    )


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def dialogue_log(log: Log, peer: str) -> Shown:
    """What ``connection_logging`` writes: 2.2's words, secrets masked by the grammar."""

    def say(ours: bool, line: bytes) -> None:
        text = text_of(line.rstrip(b"\r\n"))
        log.debug(f"{'SELF' if ours else peer}: {json.dumps(text, ensure_ascii=False)}")

    return say
