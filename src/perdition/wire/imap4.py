"""IMAP4 before and at the login (RFC 3501, 9051; 2971 ID, 4959 SASL-IR, 7888 LITERAL+).

    S: * OK [CAPABILITY IMAP4rev1 …] perdition ready on HOST HEX
    C: a CAPABILITY                      S: * CAPABILITY IMAP4rev1 …  /  a OK CAPABILITY
    C: b STARTTLS                        S: b OK Begin TLS negotiation now
    C: c LOGIN "user" {6}                S: + OK ready for additional input
    C: secret                            S: c OK You are so in
    C: d AUTHENTICATE PLAIN AHUAcA==     S: d NO [AUTHENTICATIONFAILED] …

It differs on purpose: a line may end in LF alone; an unquoted word of LOGIN may hold any byte but
blanks and controls, literally, as typed by hand (2.2 took it so); LOGIN while it is disabled is
refused before its literals are asked for, so that no password travels in vain.
The way to the server is in `imap4_back`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from perdition.protocols import TlsUse
from perdition.wire import sasl
from perdition.wire.base import Accepted, Event, FrontTerms, Login, Quit, Reason, Refused, StartTls
from perdition.wire.held import HeldFront
from perdition.wire.imap4_back import Back

__all__ = ["Back", "Front"]

TAG = rb"[^\x00-\x20\x7f-\xff(){%*\"\\+]+"
_QUOTED = rb'"((?:[^"\\\r\n\0]|\\["\\])*)"'
_WORD = rb"([^\x00-\x20\x7f\"({][^\x00-\x20\x7f]*)"
_VALUE = rb" (?:" + _QUOTED + rb"|" + _WORD + rb")"
_ARGUMENT = re.compile(_VALUE)
# A login in one line, unless it ends in what may be a literal's announcement.
_LOGIN = re.compile(rb"(" + TAG + rb") (?i:LOGIN)" + 2 * _VALUE + rb"(?<!\})")
_COMMAND = re.compile(rb"(" + TAG + rb")(?: ([^ ]*)(.*))?", re.DOTALL)
_LITERAL = re.compile(rb" ?\{(\d{1,12})(\+?)\}$")
_STRING = rb'"(?:[^"\\\r\n\0]|\\["\\])*"'
_ID = re.compile(
    rb" (?:NIL|\((?:" + _STRING + rb" (?:" + _STRING + rb"|NIL)"
    rb"(?: " + _STRING + rb" (?:" + _STRING + rb"|NIL))*)?\))",
    re.IGNORECASE,
)
_OPENS = (b" ", b"({")  # what stands ahead of a literal
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

_AFTER_LOGIN = frozenset(
    b"ENABLE SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB NAMESPACE STATUS "
    b"APPEND IDLE CHECK CLOSE UNSELECT EXPUNGE SEARCH FETCH STORE COPY MOVE UID GETQUOTA "
    b"GETQUOTAROOT SETQUOTA GETACL SETACL DELETEACL MYRIGHTS LISTRIGHTS GETMETADATA SETMETADATA "
    b"SORT THREAD NOTIFY COMPRESS UNAUTHENTICATE GENURLAUTH RESETKEY URLFETCH CONVERSIONS".split()
)
_ECHO = re.compile(rb"^\S+ (BAD (?:Unrecognised|Missing|Null) command)", re.MULTILINE)
_NO_ARGUMENT = (b"CAPABILITY", b"NOOP", b"LOGOUT", b"STARTTLS")

_LITERALS = 64  # in one command
_ANNOUNCED = 16  # bytes at the end of a line that may announce a literal
_SKIPPED = 65536  # bytes of refused literals and lines that are read past


@lru_cache(maxsize=64)
def _capability(terms: FrontTerms, secure: bool) -> bytes:
    """The words announced: STARTTLS and LOGINDISABLED as they apply, no way in that is shut."""
    words = terms.capability.encode("utf-8").split()
    offer_tls = terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE) and not secure
    if offer_tls and b"STARTTLS" not in words:
        words.append(b"STARTTLS")
    elif not offer_tls:
        words = [word for word in words if word != b"STARTTLS"]
    if terms.login_disabled or (terms.tls is TlsUse.TLS_FORCE and not secure):
        words = [w for w in words if w != b"SASL-IR" and not w.upper().startswith(b"AUTH=")]
        if b"LOGINDISABLED" not in words:
            words.append(b"LOGINDISABLED")
    elif terms.tls is TlsUse.TLS_FORCE:
        words = [word for word in words if word != b"LOGINDISABLED"]
    return b" ".join(words)


@lru_cache(maxsize=64)
def greeting(terms: FrontTerms) -> bytes:
    """What a client hears first."""
    secure = terms.tls is TlsUse.SSL
    return b"* OK [CAPABILITY %b] %b\r\n" % (_capability(terms, secure), terms.ready)


def reply(accepted: Accepted, tag: bytes, terms: FrontTerms) -> bytes:
    """What a client hears whose login, under `tag`, the server has accepted."""
    text = accepted.text if terms.server_resp_line else terms.ok_line
    return b"%b%b OK %b\r\n" % (accepted.passed, tag, text)


class Front(HeldFront):
    """Our half of the talk with an IMAP client; see `perdition.wire.base.Front`."""

    __slots__ = (
        "_exchange", "_parts", "_skip", "_skip_line", "_skipped", "_tag", "_wanted",
    )  # fmt: skip

    def __init__(self, terms: FrontTerms) -> None:
        super().__init__(terms, greeting(terms))
        self._tag = b""  # of the command that is held or under way
        self._exchange: sasl.Exchange | None = None  # an AUTHENTICATE under way
        self._parts: list[bytes] = []  # of a command with literals: text, literal, text, …
        self._wanted = -1  # bytes of the literal that is to come; -1: a line is
        self._skip_line = False  # read past the rest of the line
        self._skip = 0  # bytes of a literal to read past ahead of that rest
        self._skipped = 0  # bytes read past in all

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> Event | None:
        if self._buffer:  # it came in clear text, while STARTTLS was being answered
            return self._end("Input behind STARTTLS in clear text")
        self._begin_again()
        return None

    def refused(self, refused: Refused) -> Quit | None:
        tag, terms = self._tag, self.terms
        self._held = False
        if refused.text and terms.server_resp_line:
            text = (refused.status or b"NO") + b" " + refused.text
        elif refused.text and not terms.hide_server_errors:
            text = b"NO " + refused.text
        elif refused.reason is Reason.LOCAL:
            text = b"NO [AUTHENTICATIONFAILED] Authentication failure"
        elif refused.reason is Reason.LOGIN_DISABLED and self._needs_tls:
            text = b"NO [PRIVACYREQUIRED] failed: Login Disabled"
        else:
            code = b"[UNAVAILABLE] " if refused.reason.is_temporary else b""
            text = b"NO %bfailed: %b" % (code, refused.reason.value.encode())
        self.out += b"%b%b %b\r\n" % (refused.passed, tag, text)
        return self._failed_login()

    def accepted(self, accepted: Accepted) -> None:
        self.out += reply(accepted, self._tag, self.terms)

    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        code = "[UNAVAILABLE] " if unavailable else ""
        self.out += f"* BYE {code}{why}\r\n".encode()

    # -- lines and literals -----------------------------------------------------------------

    def _parse(self) -> Event | None:
        """Take commands off the buffer until one is an event or none is whole."""
        limit = self.terms.line_limit
        while True:
            if self._skip_line:
                whole = self._skipping()
                if self._skipped > _SKIPPED:
                    return self._end("Too much input refused")
                if not whole:
                    return None
            if self._wanted >= 0:
                if len(self._buffer) < self._wanted:
                    return None
                self._parts.append(self._buffer[: self._wanted])
                self._buffer = self._buffer[self._wanted :]
                self._wanted = -1
            line, end, rest = self._buffer.partition(b"\n")
            if len(line) >= limit:
                self._skip_line = True
                event: Event | None = self._bad_command(self._spoken_tag(), b"Line too long")
            elif not end:
                return None
            else:
                self._buffer = rest
                event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                return event

    def _skipping(self) -> bool:
        """Read past what was refused, with all the literals that follow; False: more is to come."""
        while True:
            gone = min(self._skip, len(self._buffer))
            self._skip -= gone
            end = 0 if self._skip else self._buffer.find(b"\n", gone) + 1
            if end:
                line = self._buffer[gone:end].rstrip(b"\r\n")
                literal = _LITERAL.search(line) if line.endswith(b"+}") else None
                self._skip = int(literal[1]) if literal else 0
                self._skip_line = literal is not None
                gone = end
            elif not self._skip:
                gone = max(gone, len(self._buffer) - _ANNOUNCED)
            self._skipped += gone
            self._buffer = self._buffer[gone:]
            if not self._skip_line:
                return True
            if not end:
                return False

    def _spoken_tag(self) -> bytes:
        """The tag of the command at the head of the buffer, for an early complaint."""
        if self._parts or self._exchange is not None:
            return self._tag
        match = _COMMAND.match(self._buffer[:256])
        return match[1] if match and match[2] is not None else b"*"

    def _line(self, line: bytes) -> Event | None:
        if self._exchange is not None:
            return self._response(line)
        if not self._parts and (login := _LOGIN.fullmatch(line)) is not None:
            return self._login_in_one_line(*login.groups())
        literal = _LITERAL.search(line) if line.endswith(b"}") else None
        if self._parts:
            if literal:
                return self._literal(line[: literal.start()], literal)
            self._parts.append(line)
            text, self._parts = self._parts, []
            return self._dispatch(text)
        if literal is not None and line[literal.start() - 1 : literal.start() + 1].endswith(_OPENS):
            return self._literal(line[: literal.start()], literal)
        return self._dispatch([line])

    def _literal(self, text: bytes, literal: re.Match[bytes]) -> Event | None:
        """A line that announces a literal: ask for it, or refuse the whole command."""
        size, waits = int(literal[1]), not literal[2]
        first = self._parts[0] if self._parts else text
        match = _COMMAND.fullmatch(first)
        tag = match[1] if match and match[2] is not None else b"*"
        name = match[2].upper() if match and match[2] is not None else b""
        total = sum(map(len, self._parts), len(text) + size)
        bad = b""
        if name == b"LOGIN" and self._disabled:
            bad = b"disabled"
        elif name not in (b"LOGIN", b"ID"):
            bad = b"Please log in first" if name in _AFTER_LOGIN else b"Unrecognised command"
        elif size > self.terms.literal_limit or total > 4 * self.terms.literal_limit:
            bad = b"[TOOBIG] Literal too long"
        elif len(self._parts) > 2 * _LITERALS:
            bad = b"Too many literals"
        if not bad:
            self._tag = tag
            self._parts.append(text)
            self._wanted = size
            if waits:
                self.out += b"+ OK ready for additional input\r\n"
            return None
        self._parts = []
        if not waits:
            self._skip, self._skip_line = size, True
        if bad == b"disabled":
            self._show(tag, name)
            self._tag = tag
            return Login(b"", b"", disabled=True)
        event = self._bad_command(tag, bad)
        if self._skip > _SKIPPED:
            return event or self._end("Literal too long")
        return event

    # -- commands ---------------------------------------------------------------------------

    def _dispatch(self, parts: list[bytes]) -> Event | None:
        """A whole command: its text, with literals in between."""
        match = _COMMAND.fullmatch(parts[0])
        if match is None:
            return self._bad_command(b"*", b"Invalid tag")
        tag, word, rest = match.groups()
        if not word:
            return self._bad_command(
                tag, b"Missing command" if word is None or not rest else b"Null command"
            )
        name = word.upper()
        if self.shown is not None:
            self._show(tag, name, rest)
        self._tag = tag
        if name == b"LOGIN":
            return self._login(tag, rest, parts)
        if name == b"AUTHENTICATE":
            return self._authenticate(tag, rest)
        if name == b"ID":
            text = rest + b"".join(
                b' ""' if number % 2 else part for number, part in enumerate(parts[1:], 1)
            )
            if not _ID.fullmatch(text.replace(b'( ""', b'(""')):
                return self._bad_command(tag, b"Try ID NIL or ID (<field> <value> ...)")
            self.out += b'* ID ("name" "Perdition")\r\n%b OK ID\r\n' % tag
            return self._answered()
        if name in _NO_ARGUMENT:
            if rest:
                what = b"Argument given to %b but there shouldn't be one" % name
                return self._bad_command(tag, what)
            return self._plain_command(tag, name)
        if name in _AFTER_LOGIN:
            return self._bad_command(tag, b"Please log in first")
        return self._bad_command(tag, b"Unrecognised command")

    def _plain_command(self, tag: bytes, name: bytes) -> Event | None:
        if name == b"CAPABILITY":
            words = _capability(self.terms, self._secure)
            self.out += b"* CAPABILITY %b\r\n%b OK CAPABILITY\r\n" % (words, tag)
        elif name == b"NOOP":
            self.out += b"%b OK NOOP\r\n" % tag
        elif name == b"LOGOUT":
            self.out += b"* BYE IMAP4 server logging out\r\n%b OK LOGOUT\r\n" % tag
            return Quit()
        elif self.terms.tls not in (TlsUse.TLS, TlsUse.TLS_FORCE):
            return self._bad_command(tag, b"STARTTLS disabled")
        elif self._secure:
            return self._bad_command(tag, b"SSL already active")
        elif self._buffer:
            return self._end("Input behind STARTTLS in clear text")
        else:
            self.out += b"%b OK Begin TLS negotiation now\r\n" % tag
            return StartTls()
        return self._answered()

    def _login_in_one_line(
        self,
        tag: bytes,
        quoted_user: bytes | None,
        user: bytes,
        quoted_password: bytes | None,
        password: bytes,
    ) -> Login:
        """The login of most clients, as `_login` would read it."""
        if self.shown is not None:
            self._show(tag, b"LOGIN")
        self._tag = tag
        if quoted_user is not None:
            user = _unescaped(quoted_user)
        if quoted_password is not None:
            password = _unescaped(quoted_password)
        return Login(user, password, disabled=self._disabled)

    def _login(self, tag: bytes, rest: bytes, parts: list[bytes]) -> Event | None:
        arguments: list[bytes] | None = _arguments(rest)
        for number, part in enumerate(parts[1:], 1):
            if arguments is None:
                break
            if number % 2:
                arguments.append(part)
            else:
                more = _arguments(part)
                arguments = None if more is None else arguments + more
        if arguments is None or len(arguments) != 2:
            return self._bad_command(tag, b"Try LOGIN <username> <passwd>")
        user, password = arguments
        if len(parts) > 1 and not (sasl.is_clean(user) and sasl.is_clean(password)):
            return self._bad_command(tag, b"NUL, CR and LF are not allowed here")
        return Login(user, password, disabled=self._disabled)

    def _authenticate(self, tag: bytes, rest: bytes) -> Event | None:
        words = rest[1:].split(b" ")
        if not 1 <= len(words) <= 2 or not words[0] or (len(words) == 2 and not words[1]):
            return self._bad_command(tag, b"Try AUTHENTICATE <mechanism> [<initial response>]")
        if self._disabled:
            return sasl.shut_out(words[0].upper(), words[1] if len(words) == 2 else b"")
        try:
            self._exchange = sasl.Exchange(words[0].upper())
        except ValueError:
            self.out += b"%b NO AUTHENTICATE mechanism not supported\r\n" % tag
            return self._counted()
        if len(words) == 2:
            return self._response(b"" if words[1] == b"=" else words[1])
        self.out += b"+ %b\r\n" % self._exchange.challenge()
        return None

    def _response(self, line: bytes) -> Event | None:
        """One line of an AUTHENTICATE under way."""
        exchange = self._exchange
        assert exchange is not None
        if line == b"*":
            self._exchange = None
            return self._bad_command(self._tag, b"AUTHENTICATE cancelled")
        try:
            login = exchange.respond(line)
        except ValueError:
            self._exchange = None
            return self._bad_command(self._tag, b"Invalid SASL response")
        if login is None:
            self.out += b"+ %b\r\n" % exchange.challenge()
        else:
            self._exchange = None
        return login

    # -- complaints -------------------------------------------------------------------------

    def _bad_command(self, tag: bytes, why: bytes) -> Quit | None:
        self._parts = []
        self._exchange = None
        self.out += b"%b BAD %b\r\n" % (tag, why)
        return self._counted()

    def _masked(self, out: bytes) -> bytes:
        """A tag without a command that we know may be a password in the wrong place."""
        return _ECHO.sub(rb"*** \1", out)

    def _show(self, tag: bytes, name: bytes, rest: bytes = b"") -> None:
        """Anything but a command that carries no secret may be a password in the wrong place."""
        if self.shown is None:
            return
        if name in _NO_ARGUMENT or name == b"ID":
            self.shown(False, b"%b %b%b" % (tag, name, rest))
        elif name in _AFTER_LOGIN or name in (b"LOGIN", b"AUTHENTICATE"):
            self.shown(False, b"%b %b ***" % (tag, name))
        else:
            self.shown(False, b"***")


def _arguments(text: bytes) -> list[bytes] | None:
    """Split ``␣word␣"quoted"`` into values; None when it is something else."""
    values = []
    at = 0
    while at < len(text):
        match = _ARGUMENT.match(text, at)
        if match is None:
            return None
        quoted, word = match.groups()
        values.append(word if quoted is None else _unescaped(quoted))
        at = match.end()
    return values


def _unescaped(quoted: bytes) -> bytes:
    return _ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted
