"""ManageSieve toward the server: its greeting, STARTTLS, one login, its verdict (RFC 5804).

    S: "SASL" "PLAIN"  "STARTTLS" …  OK "ready"
    C: STARTTLS                             S: OK "go"  /  TLS  /  capabilities and OK once more
    C: AUTHENTICATE "PLAIN" "AHUAc2VjcmV0"  S: OK "Logged in."

The login is always one AUTHENTICATE PLAIN with its response, which carries an authorisation id.
A server that announces XCLIENT hears in front of it, in one packet with it, who the client is.
Capabilities that the server sends anew behind its OK (RFC 5804, 2.1; only where SASL brought a
security layer, some servers always) are unread bytes: they reach the client as if it had logged in
there itself. A line of strings ahead of the OK is passed on too, once TLS is up or not wanted.
A text for the client is spelt anew, as one quoted string, however the server spelt it.
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

_LITERAL = re.compile(rb"(?:^| |\()\{(\d{1,12})\+?\}\r?\n$")
_TOKEN = re.compile(
    rb' *(?:"((?:[^"\\\r\n\0]|\\[^\r\n\0])*)"|\{(\d{1,12})\+?\}\r?\n|([()]|[^\x00-\x20\x7f"(){]+))'
)
_STATUS = re.compile(rb"(OK|NO|BYE)(?= |$)", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = re.compile(rb'(["\\])')
_UNQUOTABLE = re.compile(rb"[\r\n\0]+")
_QUOTED_LIMIT = 1024  # bytes in a quoted string (RFC 5804, 4)

# What is awaited.
_GREETING, _STARTTLS, _SECURED, _VERDICT = range(4)


def string(value: bytes, *, plus: bytes = b"") -> bytes:
    """Spell a string: quoted where that is allowed, else a literal, with `plus` to a server."""
    if len(value) > _QUOTED_LIMIT or _UNQUOTABLE.search(value):
        return b"{%d%b}\r\n%b" % (len(value), plus, value)
    if b'"' in value or b"\\" in value:
        value = _SPECIAL.sub(rb"\\\1", value)
    return b'"%b"' % value


def unescaped(quoted: bytes) -> bytes:
    """What stands between the quotes of a string, as it is meant."""
    return _ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted


class Back(HeldBack):
    """Our half of the talk with a ManageSieve server; see `perdition.wire.base.Back`."""

    __slots__ = (
        "_awaited", "_bye", "_capability", "_heard", "_passed", "_said", "_told",
    )  # fmt: skip

    def __init__(
        self, login: Login, terms: BackTerms, *, secure: bool = False, origin: Origin | None = None
    ) -> None:
        super().__init__(login, terms, secure, origin)
        self._awaited = _GREETING
        self._heard = False  # the server has said a whole line
        self._bye = False  # the server has said that it ends the connection
        self._capability: dict[bytes, bytes] = {}  # name in upper case -> value
        self._passed = b""
        self._said = 0  # bytes of lines ahead of the reply that is awaited
        self._told = False  # the answer to XCLIENT is to come

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> None:
        self._refuse_early()
        self._secure = True
        self._held = False
        self._capability = {}
        self._awaited = _SECURED  # what the server can do, sent unasked

    @property
    def logging_in(self) -> bool:
        return self._awaited == _VERDICT

    def lost(self) -> Refused:
        reason = Reason.TEMPORARY if self.logging_in else Reason.NEGOTIATION
        return Refused(reason)

    def goodbye(self) -> bytes:
        if self._bye or not (self._heard or self._buffer):
            return b""
        return b"LOGOUT\r\n"

    # -- lines ------------------------------------------------------------------------------

    def _literal(self, end: int) -> re.Match[bytes] | None:
        return _LITERAL.search(self._buffer[self._line_start : end])

    def _line(self, line: bytes) -> Outcome | None:
        self._heard = True
        bare = line[: -2 if line.endswith(b"\r\n") else -1]
        if line.startswith((b'"', b"{")):
            self._strings(line, _tokens(bare))
            return None
        match = _STATUS.match(bare)
        if match is None:
            raise WireError("the server says neither a capability nor OK, NO or BYE")
        status = match[1].upper()
        self._bye = status == b"BYE"
        self._said = 0
        if self._told and not self._bye:
            self._told = False  # whatever the server thinks of it
            return None
        if self._awaited == _VERDICT:
            return self._verdict(status, *_reply(bare[match.end() :]))
        if self._awaited == _STARTTLS:
            return self._starttls(status)
        if self._awaited == _GREETING and self.terms.ready in line:
            return Refused(Reason.NEGOTIATION, detail="the server is this proxy itself")
        if status != b"OK":
            code, text = _reply(bare[match.end() :])
            not_now = status == b"BYE" or code == b"TRYLATER"
            reason = Reason.TEMPORARY if not_now else Reason.NEGOTIATION
            if text and not code:  # nobody's password is at fault
                text = b"(TRYLATER) " + text
            return Refused(reason, text, status, detail=f"the server greets with {status.decode()}")
        return self._log_in()

    def _strings(self, line: bytes, tokens: list[bytes] | None) -> None:
        """A line of strings: a capability, or in an authentication a challenge."""
        self._said += len(line)
        if self._said > self.terms.passed_limit:
            raise WireError("the server says too much ahead of its reply")
        if self._awaited == _STARTTLS:
            raise WireError("the server answers STARTTLS with something else")
        if self._awaited == _VERDICT:
            # PLAIN has no challenge; but a capability without a value looks like one.
            if tokens is None or (len(tokens) == 1 and not self._passed):
                raise WireError("the server asks for more than there is to say")
            self._passed += line
        elif tokens is not None:
            values = [token[1:] for token in tokens if token.startswith(b'"')]
            self._capability[values[0].upper()] = values[1] if len(values) > 1 else b""

    # -- steps ------------------------------------------------------------------------------

    def _log_in(self) -> Outcome | None:
        """Capabilities are known: TLS if it is to be, then the credentials."""
        if self.terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE) and not self._secure:
            if b"STARTTLS" in self._capability:
                self._awaited = _STARTTLS
                self._send(b"STARTTLS\r\n")
                return None
            if self.terms.tls is TlsUse.TLS_FORCE:
                return Refused(Reason.NEGOTIATION, detail="the server does not offer STARTTLS")
        if b"PLAIN" not in self._capability.get(b"SASL", b"").upper().split():
            return Refused(Reason.NO_MECHANISM, detail="the server does not offer PLAIN")
        if not sasl.is_clean_login(self._login):  # NUL would make it another user's
            return Refused(Reason.NO_MECHANISM, detail=sasl.UNCLEAN)
        self._awaited = _VERDICT
        if self._origin is not None and b"XCLIENT" in self._capability:
            self._told = True
            self._send(xclient(self._origin) + b"\r\n")
        command = b'AUTHENTICATE "PLAIN" '
        message = string(sasl.write_plain(self._login), plus=b"+")
        self._send(b"%b%b\r\n" % (command, message), command + b"***")
        return None

    def _starttls(self, status: bytes) -> Outcome:
        if status != b"OK":
            return Refused(Reason.NEGOTIATION, detail="the server refuses STARTTLS")
        self._refuse_early()
        return StartTls()

    def _refuse_early(self) -> None:
        if self._buffer:
            raise WireError("the server sends in clear text behind its answer to STARTTLS")

    def _verdict(self, status: bytes, code: bytes, text: bytes) -> Outcome:
        if status == b"OK":
            return Accepted(self._passed, text)
        # What the server said of itself ahead of a NO is of no use: the client stays with us.
        reason = Reason.TEMPORARY if code == b"TRYLATER" else Reason.REFUSED
        return Refused(reason, text, status)


def _tokens(response: bytes) -> list[bytes] | None:
    """Split into words, parentheses and strings, these with one quote ahead; None: malformed."""
    tokens = []
    at = 0
    while at < len(response):
        match = _TOKEN.match(response, at)
        if match is None:
            return None
        quoted, size, word = match.groups()
        at = match.end()
        if size is not None:
            if at + int(size) > len(response):
                return None
            tokens.append(b'"' + response[at : at + int(size)])
            at += int(size)
        else:
            tokens.append(word or b'"' + unescaped(quoted))
    return tokens


def _reply(rest: bytes) -> tuple[bytes, bytes]:
    """The response code's name and the whole text, of what stands behind OK, NO or BYE."""
    tokens = _tokens(rest)
    if tokens is not None:
        end = depth = 0
        for number, token in enumerate(tokens, 1):
            depth += (token == b"(") - (token == b")")
            if not depth:
                end = number if token == b")" else number - 1
                break
        texts = tokens[end:]
        if not depth and len(texts) <= 1 and all(text.startswith(b'"') for text in texts):
            code = tokens[1].upper() if end else b""
            return code, b" ".join(filter(None, (_spelt(tokens[:end]), _spelt(texts))))
    return b"", _spelt([b'"' + rest.strip()])


def _spelt(tokens: list[bytes]) -> bytes:
    """Join tokens, every string quoted: line breaks are blanks and a long one is cut."""
    text: list[bytes] = []
    last = b"("
    for token in tokens:
        word = token
        if token.startswith(b'"'):
            value = _UNQUOTABLE.sub(b" ", token[1:])
            if len(value) > _QUOTED_LIMIT:
                value = value[:_QUOTED_LIMIT].decode("utf-8", "ignore").encode()
            word = string(value)
        if last != b"(" and word != b")":
            text.append(b" ")
        text.append(word)
        last = word
    return b"".join(text)
