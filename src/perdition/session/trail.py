"""What the log says of one connection: the lines that administrators and fail2ban read.

The templates are API: other programs parse them. Source: section 5 of the description of 2.2.
A password is written only where ``log_passwd`` says so.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from perdition.log import Log, text_of
from perdition.wire.base import Login, Origin, Reason, Shown

_NOBODY = 'authorisation_id=NONE authentication_id="(null)"'

Address = tuple[str, int]  # what getpeername says of an IP socket, cut to host and port


def _names() -> Iterator[str]:
    own = urlsafe_b64encode(os.urandom(9)).decode("ascii")
    return (f"{own}{number:x}" for number in count())


@dataclass(frozen=True, slots=True)
class TrailTerms:
    """What of the configuration shapes the lines."""

    protocol: str  # name in the log
    outgoing_port: str
    log_passwd: str = "never"
    connect_relog: int = 0  # seconds
    inetd_pid: int = 0
    sessions: Iterator[str] = field(default_factory=_names)  # no two alike, of all workers


def plain_host(host: str) -> str:
    """Write an IPv4 address that came in on an IPv6 socket as what it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


class Trail:
    """The lines of one client's connection, from Connect to Closing."""

    __slots__ = (
        "_auth", "_ids", "accepted", "authentication_id", "authorisation_id", "client", "ft", "log",
        "reached", "relog_at", "session", "terms",
    )  # fmt: skip

    def __init__(
        self, log: Log, terms: TrailTerms, client: Address | None, reached: Address | None
    ) -> None:
        self.log = log
        self.terms = terms
        self.between(client, reached)
        self._ids = _NOBODY
        self._auth = ""
        self.accepted = False
        self.authentication_id = self.authorisation_id = ""
        self.session = ""  # what servers are told to call it
        self.relog_at = 0  # sweep's second of the next Auth line; 0: none

    def between(self, client: Address | None, reached: Address | None) -> None:
        """The connection is from `client` to `reached`, wherever the socket may come from."""
        self.client = client
        self.reached = reached
        self.ft = ""
        if client is not None and reached is not None:
            self.ft = f" {client[0]}:{client[1]}->{reached[0]}:{reached[1]}"

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
        if self.client is not None and self.reached is not None:
            fields["client"], fields["client_port"] = self.client
            fields["local"], fields["local_port"] = self.reached
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
        if self.log.most < 6:
            return
        inetd = f" inetd_pid={self.terms.inetd_pid}" if self.terms.inetd_pid else ""
        self.log.info(f"Connect: {self.ft}{inetd}", self._fields("connect"))

    def name(self, login: Login) -> None:
        """Credentials came; the lines to come are about this user."""
        self.authentication_id = text_of(login.authentication_id)
        self.authorisation_id = text_of(login.authorisation_id)
        authorisation = f'"{_quoted(self.authorisation_id)}"' if login.authorisation_id else "NONE"
        self._ids = (
            f"authorisation_id={authorisation} "
            f'authentication_id="{_quoted(self.authentication_id)}"'
        )

    def verdict(
        self, login: Login, client_secure: str, server_secure: str, server: str,
        failure: Reason | None,
    ) -> None:  # fmt: skip
        """A login ended: the Auth line. `server` is ``host:port``, empty when there was none."""
        status = "ok" if failure is None else f"failed: {failure.value}"
        passwd = self._passwd(login, failure)
        self._auth = (
            f"Auth:{self.ft} client-secure={client_secure} {self._ids}{passwd} "
            f'server="{server or "(null):" + self.terms.outgoing_port}" '
            f"protocol={self.terms.protocol} server-secure={server_secure} "
            f'status="{status}"'
        )
        self.log.notice(
            self._auth,
            self._fields(
                "auth", client_secure=client_secure, server=server, server_secure=server_secure,
                status=status,
            ) if self.log.as_json else None,
        )  # fmt: skip
        if failure is None:
            self.accepted = True
            if not self.terms.connect_relog:
                self._auth = ""  # never said again: its memory is the session's
        else:
            self._auth = ""

    def _passwd(self, login: Login, failure: Reason | None) -> str:
        mode = self.terms.log_passwd
        if mode == "never" or not self.log.debugging:
            return ""
        if mode in ("always", "ok" if failure is None else "fail"):
            return f' passwd="{_quoted(text_of(login.password))}"'
        return ""

    def relog(self, now: int) -> None:
        """Say the Auth line of a session that lasts again."""
        self.log.notice(self._auth, self._fields("relog"))
        self.relog_at = now + self.terms.connect_relog

    def closed(self, received: int, sent: int, why: str = "") -> None:
        """A session with a login ended; the counts are bytes after the login."""
        self.accepted = False
        if why:
            self.log.info(why, self._fields("timeout"))
        self.log.info(
            f"Closing session:{self.ft} {self._ids} received={received} sent={sent}",
            self._fields("close", received=received, sent=sent),
        )

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


def _quoted(text: str) -> str:
    """Escape what would end a quoted value of a line."""
    if '"' in text or "\\" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"')
    return text


def dialogue_log(log: Log, peer: str) -> Shown:
    """What ``connection_logging`` writes: 2.2's words, secrets masked by the grammar."""

    def say(ours: bool, line: bytes) -> None:
        text = text_of(line.rstrip(b"\r\n"))
        log.debug(f"{'SELF' if ours else peer}: {json.dumps(text, ensure_ascii=False)}")

    return say
