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
from functools import lru_cache

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
_CAPABILITY_CODE = re.compile(rb"\[CAPABILITY(?: ([^\]]*))?\] ?", re.IGNORECASE)
# A status response ends in a text, which has no literals.
_STATUS = re.compile(rb"\* (?:OK|NO|BAD|BYE|PREAUTH)\b", re.IGNORECASE)
_LITERAL = re.compile(rb"\{(\d{1,12})\+?\}\r?\n$")
_QUOTABLE = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_SPECIAL = re.compile(rb'(["\\])')
_NOT_NOW = frozenset(
    (b"UNAVAILABLE", b"SERVERBUG", b"INUSE", b"IN-USE", b"LIMIT", b"PRIVACYREQUIRED")
)
# 2.2's, and more than one connection can take.
TAGS = tuple(b"flim0%c" % digit for digit in b"789abcdefghijklmnopqrstuvwxyz")
_UPGRADES = (TlsUse.TLS, TlsUse.TLS_FORCE)
_REMEMBERED = 2048  # bytes of a greeting, at most

# What is awaited.
_GREETING, _CAPABILITY, _STARTTLS, _VERDICT = range(4)

_Words = frozenset[bytes]  # capabilities, in upper case


def _words(capability: bytes) -> _Words:
    return frozenset(capability.upper().split())


@lru_cache(maxsize=64)
def _read_greeting(line: bytes) -> tuple[bytes, bytes, _Words | None]:
    """A greeting's status, its text, the capabilities in it; cached: a server greets all alike."""
    star, _, rest = line.rstrip(b"\r\n").partition(b" ")
    status, _, text = rest.partition(b" ")
    status = status.upper()
    if star != b"*" or status not in (b"OK", b"BYE", b"PREAUTH"):
        raise WireError("the server's greeting is not IMAP")
    code = _CAPABILITY_CODE.match(text)
    return status, text, None if code is None else _words(code[1] or b"")


def id_command(tag: bytes, origin: Origin) -> bytes:
    """Say who the client is (Dovecot's fields of RFC 2971)."""
    (client, port), (reached, at) = origin.client, origin.reached
    return (
        f'{tag.decode()} ID ("x-originating-ip" "{client}" "x-originating-port" "{port}" '
        f'"x-connected-ip" "{reached}" "x-connected-port" "{at}" '
        f'"x-proxy-ttl" "{origin.hops}" "x-session-id" "{origin.session}")\r\n'
    ).encode()


def login_command(tag: bytes, user: bytes, password: bytes) -> bytes:
    """A login with values that may stand between quotation marks as they are."""
    return b'%b LOGIN "%b" "%b"\r\n' % (tag, user, password)


class Back(HeldBack):
    """Our half of the talk with an IMAP server; see `perdition.wire.base.Back`."""

    __slots__ = (
        "_awaited", "_bye", "_capability", "_id_tag", "_passed", "_queue", "_tag", "_tags",
    )  # fmt: skip

    def __init__(
        self, login: Login, terms: BackTerms, *, secure: bool = False, origin: Origin | None = None
    ) -> None:
        super().__init__(login, terms, secure, origin)
        self._awaited = _GREETING
        self._queue: list[bytes] = []  # what each continuation request is answered with
        self._tags = iter(TAGS)  # still to be used
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

    def _literal(self, end: int) -> re.Match[bytes] | None:
        buffer = self._buffer
        if not buffer.startswith(b"* ") or _STATUS.match(buffer):
            return None
        return _LITERAL.search(buffer, self._line_start, end)

    def _line(self, line: bytes) -> Outcome | None:
        if self._awaited == _GREETING:
            return self._greeting(line)
        tag, _, rest = line.partition(b" ")
        if tag == self._tag:
            return self._answer(rest)
        if tag == b"*":
            self._untagged(rest)
        elif tag == self._id_tag:
            self._id_tag = b""  # whatever the server thinks of it
        elif line.startswith(b"+"):
            self._continue()
        else:
            raise WireError("the server answers with a tag that it was not given")
        return None

    def _greeting(self, line: bytes) -> Outcome | None:
        if self.terms.ready in line:
            return Refused(Reason.NEGOTIATION, detail="the server is this proxy itself")
        read = _read_greeting if len(line) <= _REMEMBERED else _read_greeting.__wrapped__
        status, text, words = read(line)
        if status == b"BYE":
            return Refused(Reason.TEMPORARY, _coded(text), detail="the server says BYE")
        if status == b"PREAUTH":
            return Refused(Reason.NEGOTIATION, detail="the server says PREAUTH")
        if words is not None:
            return self._log_in(words)
        if text[:7].upper() == b"[ALERT]":
            self._passed = line
        self._ask_capability()
        return None

    def _answer(self, rest: bytes) -> Outcome | None:
        """The tagged reply to what was sent last."""
        status, _, text = rest.rstrip(b"\r\n").partition(b" ")
        status = status.upper()
        if status not in (b"OK", b"NO", b"BAD"):
            raise WireError("the server's reply is neither OK, NO nor BAD")
        if self._awaited == _VERDICT:
            return self._verdict(status, text)
        if self._awaited == _STARTTLS:
            return self._starttls(status)
        if status != b"OK" or self._capability is None:
            return Refused(Reason.NEGOTIATION, detail="the server does not tell what it can do")
        return self._log_in(_words(self._capability))

    def _untagged(self, said: bytes) -> None:
        words = said.split(None, 1)
        word = words[0].upper() if words else b""
        if word == b"ID" and self._id_tag:
            return
        if word == b"CAPABILITY":
            self._capability = said.rstrip(b"\r\n").partition(b" ")[2]
        elif word == b"BYE":
            self._bye = said.rstrip(b"\r\n").partition(b" ")[2]
        elif self._awaited == _VERDICT:
            self._passed += b"* " + said
            if len(self._passed) > self.terms.passed_limit:
                raise WireError("the server says too much ahead of its reply")

    # -- steps ------------------------------------------------------------------------------

    def _new_tag(self) -> bytes:
        self._tag = next(self._tags)
        return self._tag

    def _ask_capability(self) -> None:
        self._capability = None
        self._awaited = _CAPABILITY
        self._send(b"%b CAPABILITY\r\n" % self._new_tag())

    def _log_in(self, words: _Words) -> Outcome | None:
        """Capabilities are known: TLS if it is to be, then the credentials."""
        tls = self.terms.tls
        if tls in _UPGRADES and not self._secure:
            if b"STARTTLS" in words:
                self._awaited = _STARTTLS
                self._send(b"%b STARTTLS\r\n" % self._new_tag())
                return None
            if tls is TlsUse.TLS_FORCE:
                return Refused(Reason.NEGOTIATION, detail="the server does not offer STARTTLS")
        self._capability = None  # from now on: what is announced with the verdict
        self._awaited = _VERDICT
        if self._origin is not None and b"ID" in words:
            self._send_id(self._origin)
        if self._login.authorisation_id or b"LOGINDISABLED" in words:
            return self._send_plain(words)
        return self._send_login(words)

    def _send_id(self, origin: Origin) -> None:
        """Say who the client is, in the same packet as the login (Dovecot's fields of RFC 2971)."""
        self._id_tag = self._new_tag()
        self._send(id_command(self._id_tag, origin))

    def _send_login(self, words: _Words) -> Outcome | None:
        user, password = self._login.authentication_id, self._login.password
        tag = self._new_tag()
        command = b"%b LOGIN" % tag
        masked = command + b" ***"
        both = user + password
        if _QUOTABLE.fullmatch(both):
            if _SPECIAL.search(both):
                user, password = _escape(user), _escape(password)
            self._send(login_command(tag, user, password), masked)
            return None
        if not sasl.is_clean_login(self._login):
            return self._unclean()
        longest = max(len(user), len(password))
        if b"LITERAL+" in words or (b"LITERAL-" in words and longest <= 4096):
            text = b"%b {%d+}\r\n%b {%d+}\r\n%b\r\n"
            self._send(text % (command, len(user), user, len(password), password), masked)
            return None
        self._queue = [b"%b {%d}\r\n" % (user, len(password)), password + b"\r\n"]
        self._send(b"%b {%d}\r\n" % (command, len(user)))
        return None

    def _send_plain(self, words: _Words) -> Outcome | None:
        if b"AUTH=PLAIN" not in words:
            self._awaited = _CAPABILITY
            if b"LOGINDISABLED" in words:
                return Refused(Reason.NO_MECHANISM, detail="the server has disabled LOGIN")
            return Refused(Reason.NO_MECHANISM, detail="the server does not offer AUTH=PLAIN")
        if not sasl.is_clean_login(self._login):
            return self._unclean()
        message = sasl.write_plain(self._login)
        command = b"%b AUTHENTICATE PLAIN" % self._new_tag()
        if b"SASL-IR" in words:
            self._send(b"%b %b\r\n" % (command, message), command + b" ***")
        else:
            self._queue = [message + b"\r\n"]
            self._send(command + b"\r\n")
        return None

    def _unclean(self) -> Refused:
        self._awaited = _CAPABILITY  # nothing was sent: a server that goes now is no verdict
        return Refused(Reason.NO_MECHANISM, detail=sasl.UNCLEAN)

    def _continue(self) -> None:
        if not self._queue:
            raise WireError("the server asks for more than there is to say")
        self._send(self._queue.pop(0), b"***")

    def _starttls(self, status: bytes) -> Outcome:
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
            passed, capability = self._passed, self._capability
            code = _CAPABILITY_CODE.match(text)
            if code is not None:
                capability, text = code[1] or b"", text[code.end() :]
            if capability is not None:
                passed = b"%b* CAPABILITY %b\r\n" % (passed, capability)
            return Accepted(passed, text)
        code = _CODE.match(text)
        temporary = code is not None and code[1].upper() in _NOT_NOW
        reason = Reason.TEMPORARY if temporary else Reason.REFUSED
        return Refused(reason, text, status, self._passed)


def _coded(text: bytes) -> bytes:
    """Words of a server that goes, as a reply which says that nobody's password is at fault."""
    return b"[UNAVAILABLE] " + text if text and not _CODE.match(text) else text


def _escape(value: bytes) -> bytes:
    return _SPECIAL.sub(rb"\\\1", value)
