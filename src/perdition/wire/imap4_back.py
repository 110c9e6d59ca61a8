"""IMAP4 toward the server: its greeting, STARTTLS, one login, its verdict (RFC 3501, 9051).

    S: * OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN …] ready
    C: flim07 LOGIN "user" "secret"
    S: flim07 OK [CAPABILITY …] Logged in

Capabilities are asked for only when the greeting has none. The login takes one round trip where
the server's syntax allows it: quoted strings, else LITERAL+ (RFC 7888), else literals that wait.
An authorisation id, or LOGINDISABLED beside AUTH=PLAIN, takes AUTHENTICATE PLAIN (RFC 4959).
What the server says ahead of its verdict is passed on, its capabilities as one untagged line.
A server that announces ID hears in front of the login, in one packet with it, who the client is.
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
)
from perdition.wire.held import HeldBack

_CODE = re.compile(rb"\[([^ \]]+)(?: ([^\]]*))?\] ?")
# A status response ends in a text, which has no literals.
_STATUS = re.compile(rb"\* (?:OK|NO|BAD|BYE|PREAUTH)\b", re.IGNORECASE)
_LITERAL = re.compile(rb"\{(\d{1,12})\+?\}\r?\n$")
_QUOTABLE = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_SPECIAL = re.compile(rb'(["\\])')
_NOT_NOW = frozenset(
    (b"UNAVAILABLE", b"SERVERBUG", b"INUSE", b"IN-USE", b"LIMIT", b"PRIVACYREQUIRED")
)
_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyz"
_BASE = len(_DIGITS)

# What is awaited.
_GREETING, _CAPABILITY, _STARTTLS, _VERDICT = range(4)


class Back(HeldBack):
    """Our half of the talk with an IMAP server; see `perdition.wire.base.Back`."""

    __slots__ = (
        "_awaited", "_bye", "_capability", "_id_tag", "_line_start", "_passed", "_queue", "_tag",
        "_tags",
    )  # fmt: skip

    def __init__(
        self, login: Login, terms: BackTerms, *, secure: bool = False, origin: Origin | None = None
    ) -> None:
        super().__init__(login, terms, secure, origin)
        self._awaited = _GREETING
        self._line_start = 0  # where to look for the line's end: behind its literals
        self._queue: list[bytes] = []  # what each continuation request is answered with
        self._tags = 7  # 2.2 starts at flim07
        self._tag = b""
        self._id_tag = b""  # of an ID whose answer is to come
        self._capability: bytes | None = None  # words, None: not known
        self._passed = b""
        self._bye = b""

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> None:
        self._refuse_early()
        self._secure = True
        self._held = False
        self._passed = b""
        self._ask_capability()

    @property
    def logging_in(self) -> bool:
        return self._awaited == _VERDICT

    def lost(self) -> Refused:
        reason = Reason.TEMPORARY if self.logging_in else Reason.NEGOTIATION
        return Refused(reason, _coded(self._bye))

    def goodbye(self) -> bytes:
        if self._awaited == _GREETING and not self._buffer:
            return b""
        return b"%b LOGOUT\r\n" % self._new_tag()

    # -- lines ------------------------------------------------------------------------------

    def _next_line(self) -> bytes | None:
        """Take a whole response off the buffer, literals included; None when there is none yet."""
        buffer = self._buffer
        while True:
            end = buffer.find(b"\n", self._line_start) + 1
            if (end or len(buffer)) > self.terms.line_limit:
                raise WireError("a line of the server is too long")
            if not end:
                return None
            literal = None
            if (
                (buffer[end - 3 : end - 1] == b"}\r" or buffer[end - 2 : end - 1] == b"}")
                and buffer.startswith(b"* ")
                and not _STATUS.match(buffer)
            ):
                literal = _LITERAL.search(buffer, self._line_start, end)
            if literal is None:
                self._line_start = 0
                self._buffer = buffer[end:]
                return buffer[:end]
            self._line_start = end + int(literal[1])
            if self._line_start > self.terms.line_limit:
                raise WireError("a literal of the server is too long")

    def _line(self, line: bytes) -> Outcome | None:
        if self._awaited == _GREETING:
            return self._greeting(line)
        if line.startswith(b"* "):
            self._untagged(line)
            return None
        if line.startswith(b"+"):
            self._continue()
            return None
        tag, _, rest = line.partition(b" ")
        if tag == self._id_tag:
            self._id_tag = b""  # whatever the server thinks of it
            return None
        if tag != self._tag:
            raise WireError("the server answers with a tag that it was not given")
        status, _, text = rest.rstrip(b"\r\n").partition(b" ")
        status = status.upper()
        if status not in (b"OK", b"NO", b"BAD"):
            raise WireError("the server's reply is neither OK, NO nor BAD")
        if self._awaited == _CAPABILITY:
            if status != b"OK" or self._capability is None:
                return Refused(Reason.NEGOTIATION, detail="the server does not tell what it can do")
            return self._log_in()
        if self._awaited == _STARTTLS:
            return self._starttls(status, text)
        return self._verdict(status, text)

    def _greeting(self, line: bytes) -> Outcome | None:
        if self.terms.ready in line:
            return Refused(Reason.NEGOTIATION, detail="the server is this proxy itself")
        word, _, text = line[2:].rstrip(b"\r\n").partition(b" ")
        word = word.upper()
        if not line.startswith(b"* ") or word not in (b"OK", b"BYE", b"PREAUTH"):
            raise WireError("the server's greeting is not IMAP")
        if word == b"BYE":
            return Refused(Reason.TEMPORARY, _coded(text), detail="the server says BYE")
        if word == b"PREAUTH":
            return Refused(Reason.NEGOTIATION, detail="the server says PREAUTH")
        self._learn(text)
        if text[:7].upper() == b"[ALERT]":
            self._passed = line
        if self._capability is None:
            self._ask_capability()
            return None
        return self._log_in()

    def _learn(self, text: bytes) -> bytes:
        """Note the capabilities in a response code, and return the text without it."""
        code = _CODE.match(text)
        if code is None or code[1].upper() != b"CAPABILITY":
            return text
        self._capability = code[2] or b""
        return text[code.end() :]

    def _untagged(self, line: bytes) -> None:
        word = line[2:].split(None, 1)[0].upper() if line[2:].strip() else b""
        if word == b"CAPABILITY":
            self._capability = line[2:].rstrip(b"\r\n").partition(b" ")[2]
            return
        if word == b"BYE":
            self._bye = line[2:].rstrip(b"\r\n").partition(b" ")[2]
            return
        if word == b"ID" and self._id_tag:
            return
        if self._awaited == _VERDICT:
            self._passed += line
            if len(self._passed) > self.terms.passed_limit:
                raise WireError("the server says too much ahead of its reply")

    # -- steps ------------------------------------------------------------------------------

    def _new_tag(self) -> bytes:
        number, self._tags = self._tags, self._tags + 1
        self._tag = b"flim%c%c" % (_DIGITS[number // _BASE % _BASE], _DIGITS[number % _BASE])
        return self._tag

    def _ask_capability(self) -> None:
        self._capability = None
        self._awaited = _CAPABILITY
        self._send(b"%b CAPABILITY\r\n" % self._new_tag())

    def _has(self, word: bytes) -> bool:
        return word in (self._capability or b"").upper().split()

    def _log_in(self) -> Outcome | None:
        """Capabilities are known: TLS if it is to be, then the credentials."""
        if self.terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE) and not self._secure:
            if self._has(b"STARTTLS"):
                self._awaited = _STARTTLS
                self._send(b"%b STARTTLS\r\n" % self._new_tag())
                return None
            if self.terms.tls is TlsUse.TLS_FORCE:
                return Refused(Reason.NEGOTIATION, detail="the server does not offer STARTTLS")
        capability = (self._capability or b"").upper()
        login = self._login
        disabled = b"LOGINDISABLED" in capability and self._has(b"LOGINDISABLED")
        self._capability = None  # from now on: what is announced with the verdict
        self._awaited = _VERDICT
        if self._origin is not None and b"ID" in capability.split():
            self._send_id(self._origin)
        if not login.authorisation_id and not disabled:
            return self._send_login(capability)
        words = capability.split()
        if b"AUTH=PLAIN" not in words:
            self._awaited = _CAPABILITY
            if disabled:
                return Refused(Reason.NO_MECHANISM, detail="the server has disabled LOGIN")
            return Refused(Reason.NO_MECHANISM, detail="the server does not offer AUTH=PLAIN")
        if not sasl.is_clean_login(login):
            return self._unclean()
        message = sasl.write_plain(login)
        command = b"%b AUTHENTICATE PLAIN" % self._new_tag()
        if b"SASL-IR" in words:
            self._send(b"%b %b\r\n" % (command, message), command + b" ***")
        else:
            self._queue = [message + b"\r\n"]
            self._send(command + b"\r\n")
        return None

    def _send_id(self, origin: Origin) -> None:
        """Say who the client is, in the same packet as the login (Dovecot's fields of RFC 2971)."""
        self._id_tag = self._new_tag()
        (client, port), (reached, at) = origin.client, origin.reached
        fields = (
            f'"x-originating-ip" "{client}" "x-originating-port" "{port}" '
            f'"x-connected-ip" "{reached}" "x-connected-port" "{at}" '
            f'"x-proxy-ttl" "{origin.hops}" "x-session-id" "{origin.session}"'
        )
        self._send(b"%b ID (%b)\r\n" % (self._id_tag, fields.encode()))

    def _send_login(self, capability: bytes) -> Outcome | None:
        command = b"%b LOGIN" % self._new_tag()
        user, password = self._login.authentication_id, self._login.password
        if _QUOTABLE.fullmatch(user) and _QUOTABLE.fullmatch(password):
            self._send(
                b"%b %b %b\r\n" % (command, _quote(user), _quote(password)), command + b" ***"
            )
            return None
        if not sasl.is_clean_login(self._login):
            return self._unclean()
        words = capability.split()
        longest = max(len(user), len(password))
        if b"LITERAL+" in words or (b"LITERAL-" in words and longest <= 4096):
            text = b"%b {%d+}\r\n%b {%d+}\r\n%b\r\n"
            self._send(
                text % (command, len(user), user, len(password), password), command + b" ***"
            )
            return None
        self._queue = [b"%b {%d}\r\n" % (user, len(password)), password + b"\r\n"]
        self._send(b"%b {%d}\r\n" % (command, len(user)))
        return None

    def _unclean(self) -> Refused:
        self._awaited = _CAPABILITY  # nothing was sent: a server that goes now is no verdict
        return Refused(Reason.NO_MECHANISM, detail=sasl.UNCLEAN)

    def _continue(self) -> None:
        if not self._queue:
            raise WireError("the server asks for more than there is to say")
        self._send(self._queue.pop(0), b"***")

    def _starttls(self, status: bytes, text: bytes) -> Outcome:
        if status != b"OK":
            return Refused(Reason.NEGOTIATION, detail="the server refuses STARTTLS")
        self._refuse_early()
        self._capability = None
        return StartTls()

    def _refuse_early(self) -> None:
        if self._buffer:
            raise WireError("the server sends in clear text behind its answer to STARTTLS")

    def _verdict(self, status: bytes, text: bytes) -> Outcome:
        if status == b"OK":
            if self._queue:
                raise WireError("the server accepts a login that it has not read")
            rest = self._learn(text)
            passed = self._passed
            if self._capability is not None:
                passed += b"* CAPABILITY %b\r\n" % self._capability
            return Accepted(passed, rest)
        code = _CODE.match(text)
        temporary = code is not None and code[1].upper() in _NOT_NOW
        reason = Reason.TEMPORARY if temporary else Reason.REFUSED
        return Refused(reason, text, status, self._passed)


def _coded(text: bytes) -> bytes:
    """Words of a server that goes, as a reply which says that nobody's password is at fault."""
    return b"[UNAVAILABLE] " + text if text and not _CODE.match(text) else text


def _quote(value: bytes) -> bytes:
    if b'"' in value or b"\\" in value:
        value = _SPECIAL.sub(rb"\\\1", value)
    return b'"%b"' % value
