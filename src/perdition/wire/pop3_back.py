"""POP3 toward the server: its greeting, STLS, one login, its verdict (RFC 1939, 2449, 2595, 5034).

    S: +OK ready <1896.697170952@host>   an APOP banner is a text like any other
    C: CAPA  /  STLS                     only where TLS is to be
    C: USER user                         S: +OK
    C: PASS secret                       S: +OK Logged in.  /  -ERR [IN-USE] …

USER and PASS wait for each other: not every server reads ahead. An authorisation id takes AUTH
PLAIN, with its response ahead where the command then has 255 bytes at most (RFC 5034, 4). So does
a name with a blank, which a USER may cut, where the server has AUTH PLAIN, and any at a server that
refuses USER and has nothing else. Only these ask CAPA.
A server whose greeting says [XCLIENT] hears in front of the login, in one packet with it, who the
client is.
The server's words and response code are passed on as they stand. To those of a greeting that turns
us away without a code, [SYS/TEMP] is added: the client's password was not even asked for.
Codes of RFC 2449 and 3206 but [AUTH] mean that nobody's name or password is at fault.

It differs from 2.2 on purpose: a refused STLS is a failure, nobody waits for the answer to QUIT,
a refused USER has an answer too, and authorisation ids are known.
"""

from __future__ import annotations

import re

from perdition.errors import WireError
from perdition.protocols import TlsUse
from perdition.wire import sasl
from perdition.wire.base import (
    Accepted,
    BackTerms,
    Login,
    Origin,
    Outcome,
    Reason,
    Refused,
    StartTls,
    xclient,
)
from perdition.wire.held import HeldBack

_CODE = re.compile(rb"\[([^\]/]*)(?:/[^\]]*)?\]")  # codes are hierarchical (RFC 2449, 8)
_NOT_NOW = frozenset((b"IN-USE", b"LOGIN-DELAY", b"SYS"))
_COMMAND_LIMIT = 255  # bytes of a command, CRLF included (RFC 2449, 4)

_UPGRADES = (TlsUse.TLS, TlsUse.TLS_FORCE)

# What is awaited; from _USER on the server has all it needs to start the login.
_GREETING, _CAPA, _LIST, _STLS, _USER, _PASS, _AUTH = range(7)


class Back(HeldBack):
    """Our half of the talk with a POP3 server; see `perdition.wire.base.Back`."""

    __slots__ = (
        "_ahead", "_awaited", "_capability", "_heard", "_listed", "_refusal", "_response", "_told",
    )  # fmt: skip

    def __init__(
        self, login: Login, terms: BackTerms, *, secure: bool = False, origin: Origin | None = None
    ) -> None:
        super().__init__(login, terms, secure, origin)
        self._awaited = _GREETING
        self._heard = False  # the server has said a whole line
        self._capability: dict[bytes, list[bytes]] | None = None  # None: not known
        self._refusal: Refused | None = None  # of USER: PASS was never heard
        self._listed = 0  # bytes of the list that answers CAPA
        self._response: bytes | None = None  # what the server's + is answered with, once
        self._ahead = False  # the response went with the command already
        self._told = False  # the answer to XCLIENT is to come

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> None:
        self._refuse_early()
        self._secure = True
        self._held = False
        self._capability = None
        self._go_on()

    @property
    def logging_in(self) -> bool:
        return self._awaited >= _USER

    def lost(self) -> Refused:
        reason = Reason.TEMPORARY if self.logging_in else Reason.NEGOTIATION
        return Refused(reason)  # the session knows how: closed, reset, a certificate refused

    def goodbye(self) -> bytes:
        return b"QUIT\r\n" if self._heard or self._buffer else b""

    # -- lines ------------------------------------------------------------------------------

    def _line(self, line: bytes) -> Outcome | None:
        self._heard = True
        bare = line[: -2 if line.endswith(b"\r\n") else -1]
        if self._awaited == _LIST:
            return self._entry(bare, len(line))
        if self._told and bare[:4].upper() in (b"+OK", b"+OK ", b"-ERR"):
            self._told = False  # whatever the server thinks of it
            return None
        if self._awaited == _AUTH and (bare == b"+" or bare.startswith(b"+ ")):
            self._continue()
            return None
        if bare[:3].upper() == b"+OK":
            return self._ok(bare[3:].removeprefix(b" "), line)
        if bare[:4].upper() == b"-ERR":
            return self._err(bare[4:].removeprefix(b" "))
        raise WireError("the server says neither +OK nor -ERR")

    def _ok(self, text: bytes, line: bytes) -> Outcome | None:
        if self._awaited == _GREETING:
            if self.terms.ready in line:
                return Refused(Reason.NEGOTIATION, detail="the server is this proxy itself")
            if not text.startswith(b"[XCLIENT]"):
                self._origin = None
            return self._go_on()
        if self._awaited == _CAPA:
            self._awaited = _LIST
            self._capability = {}
            self._listed = 0
            return None
        if self._awaited == _STLS:
            self._refuse_early()
            return StartTls()
        if self._awaited == _USER:
            self._awaited = _PASS
            self._send(b"PASS %b\r\n" % self._login.password, b"PASS ***")
            return None
        if self._awaited == _AUTH and self._response is not None and not self._ahead:
            raise WireError("the server accepts a login that it has not read")
        return Accepted(b"", text)

    def _err(self, text: bytes) -> Outcome | None:
        code = _CODE.match(text)
        not_now = code is not None and code[1].upper() in _NOT_NOW
        if self._awaited == _GREETING:
            if text and code is None:
                text = b"[SYS/TEMP] " + text
            reason = Reason.TEMPORARY if not_now else Reason.NEGOTIATION
            return Refused(reason, text, b"-ERR", detail="the server greets with -ERR")
        if self._awaited == _CAPA:  # it is older than RFC 2449
            self._capability = {}
            return self._go_on()
        if self._awaited == _STLS:
            return Refused(Reason.TLS_MISSING, detail="the server refuses STLS")
        refused = Refused(Reason.TEMPORARY if not_now else Reason.REFUSED, text, b"-ERR")
        if self._awaited == _USER and not not_now and self._capability is None:
            self._refusal = refused
            self._ask_capa()
            return None
        return refused

    def _entry(self, bare: bytes, size: int) -> Outcome | None:
        """A line of the list that answers CAPA."""
        assert self._capability is not None
        if bare == b".":
            return self._go_on()
        self._listed += size
        if self._listed > self.terms.passed_limit:
            raise WireError("the server's list of capabilities is too long")
        words = bare.upper().split()
        if words:
            self._capability[words[0]] = words[1:]
        return None

    # -- steps ------------------------------------------------------------------------------

    def _go_on(self) -> Outcome | None:
        """TLS if it is to be, then the credentials; capabilities first where they decide."""
        login, known = self._login, self._capability
        if not sasl.is_clean_login(login):  # one would be a command of its own
            return Refused(Reason.NO_MECHANISM, detail=sasl.UNCLEAN)
        wants_tls = self.terms.tls in _UPGRADES and not self._secure
        wants_auth = bool(login.authorisation_id) or b" " in login.authentication_id
        if known is None and (wants_tls or wants_auth):
            self._ask_capa()
            return None
        known = known or {}
        if wants_tls and b"STLS" in known:
            self._awaited = _STLS
            self._send(b"STLS\r\n")
            return None
        if wants_tls and self.terms.tls is TlsUse.TLS_FORCE:
            return Refused(Reason.TLS_MISSING, detail="the server does not offer STLS")
        has_plain = b"PLAIN" in known.get(b"SASL", ())
        if self._refusal is not None:
            if b"USER" in known or not has_plain:
                return self._refusal
            self._send_auth()
            return None
        can_auth = wants_auth and has_plain
        if login.authorisation_id and not can_auth:
            return Refused(Reason.NO_MECHANISM, detail="the server does not offer AUTH PLAIN")
        if self._origin is not None:
            self._told = True
            self._send(xclient(self._origin) + b"\r\n")
        if can_auth:
            self._send_auth()
            return None
        self._awaited = _USER
        self._send(b"USER %b\r\n" % login.authentication_id)
        return None

    def _ask_capa(self) -> None:
        self._awaited = _CAPA
        self._send(b"CAPA\r\n")

    def _send_auth(self) -> None:
        self._awaited = _AUTH
        self._response = sasl.write_plain(self._login)
        command = b"AUTH PLAIN %b\r\n" % self._response
        # A server that knows no response ahead (RFC 1734) asks for it with a +.
        self._ahead = len(command) <= _COMMAND_LIMIT
        if self._ahead:
            self._send(command, b"AUTH PLAIN ***")
        else:
            self._send(b"AUTH PLAIN\r\n")

    def _continue(self) -> None:
        if self._response is None:
            raise WireError("the server asks for more than there is to say")
        response, self._response = self._response, None
        self._send(response + b"\r\n", b"***")

    def _refuse_early(self) -> None:
        if self._buffer:
            raise WireError("the server sends in clear text behind its answer to STLS")
