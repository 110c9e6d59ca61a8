"""ManageSieve before and at the login (RFC 5804).

    S: "IMPLEMENTATION" "perdition"      what is announced, a line each, then
    S: OK "perdition ready on HOST HEX"
    C: CAPABILITY                        S: the same lines, OK "CAPABILITY completed"
    C: STARTTLS                          S: OK "Begin TLS negotiation"  /  TLS  /  lines and OK
    C: NOOP "tag"                        S: OK (TAG "tag") "NOOP completed."
    C: AUTHENTICATE "PLAIN" {12+}        nothing is said to a literal: a client never waits for it
    C: AHUAc2VjcmV0                      S: OK "You are so in"
    C: AUTHENTICATE "LOGIN"              S: "VXNlcm5hbWU6"
    C: "*"                               S: NO "AUTHENTICATE cancelled"

It differs on purpose: a line may end in LF alone; a mechanism may stand without quotes; a quoted
string may be as long as a line; literals may be spelt ``{n}`` as servers do. A command that is
refused is read to its end, literals included, before it is answered: what it carries is never
taken for a command. While the login is disabled a challenge is not sent.
The way to the server is in `managesieve_back`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from perdition.protocols import TlsUse
from perdition.wire import sasl
from perdition.wire.base import Accepted, Event, FrontTerms, Quit, Reason, Refused, StartTls
from perdition.wire.held import HeldFront
from perdition.wire.managesieve_back import Back, string, unescaped

__all__ = ["Back", "Front"]

_NAME = re.compile(rb'"([^"]*)"')  # at the head of a capability line
_ARGUMENT = re.compile(
    rb' (?:"((?:[^"\\\r\n\0]|\\["\\])*)"|([^\x00-\x20\x7f"({\\][^\x00-\x20\x7f"]*))'
)
_LITERAL = re.compile(rb"(?:^| )\{(\d{1,12})\+?\}$")
_LITERAL_LENGTH = 18  # bytes of the longest announcement of a literal, line end included

_AFTER_LOGIN = frozenset(
    b"PUTSCRIPT LISTSCRIPTS SETACTIVE GETSCRIPT DELETESCRIPT RENAMESCRIPT CHECKSCRIPT HAVESPACE "
    b"UNAUTHENTICATE".split()
)
_PUBLIC = frozenset((b"CAPABILITY", b"NOOP", b"LOGOUT", b"STARTTLS"))  # they carry no secret
_KEEPS_LITERALS = (b"AUTHENTICATE", b"NOOP")

_LITERALS = 4  # in one command
_SKIPPED = 65536  # bytes of refused literals and lines that are read past

# An argument: whether it is a string, and its value.
_Arguments = list[tuple[bool, bytes]]


@lru_cache(maxsize=64)
def _capability(terms: FrontTerms, secure: bool) -> bytes:
    """The lines announced: STARTTLS as it applies, no mechanism where the way in is shut."""
    offer_tls = terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE) and not secure
    shut = terms.login_disabled or (terms.tls is TlsUse.TLS_FORCE and not secure)
    lines: dict[bytes, None] = {}
    for entry in map(bytes.strip, terms.capability.encode("utf-8").split(b"  ")):
        match = _NAME.match(entry)
        name = match[1].upper() if match else b""
        if not entry or (name == b"STARTTLS" and not offer_tls):
            continue
        lines[b'"SASL" ""' if name == b"SASL" and shut else entry] = None
    if offer_tls:
        lines.setdefault(b'"STARTTLS"')
    return b"".join(line + b"\r\n" for line in lines)


@lru_cache(maxsize=64)
def _greeting(terms: FrontTerms) -> bytes:
    secure = terms.tls is TlsUse.SSL
    return b"%bOK %b\r\n" % (_capability(terms, secure), string(terms.ready))


class Front(HeldFront):
    """Our half of the talk with a ManageSieve client; see `perdition.wire.base.Front`."""

    __slots__ = (
        "_complaint", "_exchange", "_keep", "_long", "_parts", "_skipped", "_wanted",
    )  # fmt: skip

    def __init__(self, terms: FrontTerms) -> None:
        super().__init__(terms, _greeting(terms))
        self._exchange: sasl.Exchange | None = None  # an AUTHENTICATE under way
        self._parts: list[bytes] = []  # of a command with literals: text, literal, text, …
        self._complaint = b""  # about the command that is being read to its end
        self._wanted = -1  # bytes of the literal that is to come; -1: a line is
        self._keep = False  # whether that literal is read, or read past
        self._long = False  # the line is longer than it may be, only its end is kept
        self._skipped = 0  # bytes read past in all

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> Event | None:
        if self._buffer:  # it came in clear text, while STARTTLS was being answered
            return self._end("Input behind STARTTLS in clear text")
        self._begin_again()
        lines = _capability(self.terms, True)
        self.out += b'%bOK "TLS negotiation completed"\r\n' % lines
        return None

    def refused(self, refused: Refused) -> Quit | None:
        # Always NO: a server's BYE ends its connection, not the client's.
        terms, reason = self.terms, refused.reason
        self._held = False
        if refused.text and (terms.server_resp_line or not terms.hide_server_errors):
            text = refused.text
        elif reason is Reason.LOCAL:
            text = b'"Authentication failure"'
        else:
            code = b"(TRYLATER) " if reason.is_temporary else b""
            if reason is Reason.LOGIN_DISABLED and self._needs_tls:
                code = b"(ENCRYPT-NEEDED) "
            text = b"%b%b" % (code, string(b"failed: " + reason.value.encode()))
        self.out += b"%bNO %b\r\n" % (refused.passed, text)
        return self._failed_login()

    def accepted(self, accepted: Accepted) -> None:
        text = accepted.text if self.terms.server_resp_line else string(self.terms.ok_line)
        self.out += b"%bOK%b%b\r\n" % (accepted.passed, b" " if text else b"", text)

    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        code = b"(TRYLATER) " if unavailable else b""
        self.out += b"BYE %b%b\r\n" % (code, string(why.encode()))

    # -- lines and literals -----------------------------------------------------------------

    def _parse(self) -> Event | None:
        """Take commands off the buffer until one is an event or none is whole."""
        while True:
            whole = self._read_literal() if self._wanted >= 0 else True
            line = self._next_line() if whole else None
            if self._skipped > _SKIPPED:
                return self._end("Too much input refused")
            if line is None:
                return None
            event = self._line(line)
            if event is not None:
                return event

    def _read_literal(self) -> bool:
        """Read the literal that is to come, or read past it; False when more of it is to come."""
        if self._keep:
            if len(self._buffer) < self._wanted:
                return False
            self._parts.append(self._buffer[: self._wanted])
            self._buffer = self._buffer[self._wanted :]
        else:
            gone = min(self._wanted, len(self._buffer))
            self._buffer = self._buffer[gone:]
            self._skipped += gone
            self._wanted -= gone
            if self._wanted:
                return False
            self._parts.append(b"")
        self._wanted = -1
        return True

    def _next_line(self) -> bytes | None:
        """Take a line off the buffer, without its end; of one too long only what may be a literal.

        A line counts as too long at the same byte whether its end is there already or not.
        """
        end = self._buffer.find(b"\n") + 1
        if self._long or (end or len(self._buffer) + 1) > self.terms.line_limit:
            self._complain(b"Line too long")
            self._long = not end
            gone = end or max(0, len(self._buffer) - _LITERAL_LENGTH)
            self._skipped += gone
            line = self._buffer[max(0, gone - _LITERAL_LENGTH) : gone]
            self._buffer = self._buffer[gone:]
        else:
            line = self._buffer[:end]
            self._buffer = self._buffer[end:]
        if not end:
            return None
        return line[: -2 if line.endswith(b"\r\n") else -1]

    def _line(self, line: bytes) -> Event | None:
        literal = _LITERAL.search(line) if line.endswith(b"}") else None
        if literal is not None:
            self._parts.append(line[: literal.start()])
            return self._literal(int(literal[1]))
        parts, self._parts = [*self._parts, line], []
        complaint, self._complaint = self._complaint, b""
        if self._exchange is not None:
            self._show(b"")
            return self._refuse(complaint) if complaint else self._response(parts)
        name, _, rest = parts[0].partition(b" ")
        name = name.upper()
        if complaint:
            self._show(b"")
            return self._refuse(complaint)
        self._show(name, rest)
        return self._command(name, [parts[0][len(name) :], *parts[1:]])

    def _literal(self, size: int) -> Event | None:
        """A line announced a literal: it is on its way, so read it or read past it."""
        under_way = self._exchange is not None
        name = b"" if under_way else self._parts[0].split(b" ", 1)[0].upper()
        self._keep = under_way or name in _KEEPS_LITERALS
        if self._keep and size > self.terms.literal_limit:
            self._complain(b"Literal too long")
        elif len(self._parts) > 2 * _LITERALS:
            self._complain(b"Too many literals")
        if self._complaint:
            self._keep = False
            self._parts = self._parts[:1] if under_way else [b""]
        self._wanted = size
        if not self._keep and self._skipped + size > _SKIPPED:
            return self._end("Literal too long")
        return None

    def _complain(self, why: bytes) -> None:
        self._complaint = self._complaint or why

    # -- commands ---------------------------------------------------------------------------

    def _command(self, name: bytes, parts: list[bytes]) -> Event | None:
        """A whole command: its text behind the name, with literals in between."""
        if name not in _PUBLIC and name != b"AUTHENTICATE":
            after = name in _AFTER_LOGIN
            return self._refuse(b"Authenticate first" if after else b"Unknown command")
        if name == b"STARTTLS" and self.terms.tls not in (TlsUse.TLS, TlsUse.TLS_FORCE):
            return self._refuse(b"Unknown command")
        arguments = _arguments(parts)
        if arguments is None:
            return self._refuse(b"Invalid arguments")
        if name == b"AUTHENTICATE":
            return self._authenticate(arguments)
        if name == b"NOOP":
            return self._noop(arguments)
        if arguments:
            return self._refuse(b"Too many arguments, expected " + name)
        if name == b"STARTTLS":
            return self._starttls()
        if name == b"CAPABILITY":
            self.out += _capability(self.terms, self._secure)
        self.out += b'OK "%b completed"\r\n' % name
        return Quit() if name == b"LOGOUT" else self._answered()

    def _noop(self, arguments: _Arguments) -> Event | None:
        if not arguments:
            self.out += b'OK "NOOP completed"\r\n'
            return self._answered()
        is_string, tag = arguments[0]
        if len(arguments) > 1 or not is_string:
            return self._refuse(b"Wrong arguments, expected NOOP [String]")
        self.out += b'OK (TAG %b) "NOOP completed."\r\n' % string(tag)
        return self._answered()

    def _starttls(self) -> Event | None:
        if self._secure:
            return self._refuse(b"TLS already active")
        if self._buffer:
            return self._end("Input behind STARTTLS in clear text")
        self.out += b'OK "Begin TLS negotiation"\r\n'
        return StartTls()

    def _authenticate(self, arguments: _Arguments) -> Event | None:
        if not 1 <= len(arguments) <= 2:
            return self._refuse(
                b"Incorrect argument count, expected AUTHENTICATE <mechanism> [<challenge>]"
            )
        if self._disabled:
            response = arguments[1][1] if len(arguments) == 2 else b""
            return sasl.shut_out(arguments[0][1].upper(), response)
        try:
            self._exchange = sasl.Exchange(arguments[0][1].upper())
        except ValueError:
            return self._refuse(b"Unknown SASL mechanism")
        if len(arguments) == 2:
            return self._respond(*arguments[1])
        self._challenge()
        return None

    def _challenge(self) -> None:
        assert self._exchange is not None
        self.out += string(self._exchange.challenge()) + b"\r\n"

    def _response(self, parts: list[bytes]) -> Event | None:
        """One line, with or without a literal, of an AUTHENTICATE under way."""
        if parts[0]:
            parts[0] = b" " + parts[0]
        arguments = _arguments(parts)
        if arguments is None or len(arguments) != 1:
            return self._refuse(b"Invalid SASL response")
        if arguments[0] == (True, b"*"):
            return self._refuse(b"AUTHENTICATE cancelled")
        return self._respond(*arguments[0])

    def _respond(self, is_string: bool, response: bytes) -> Event | None:
        exchange = self._exchange
        assert exchange is not None
        try:
            login = exchange.respond(response) if is_string else None
        except ValueError:
            is_string = False
        if not is_string:
            return self._refuse(b"Invalid SASL response")
        if login is None:
            self._challenge()
        else:
            self._exchange = None
        return login

    # -- complaints -------------------------------------------------------------------------

    def _refuse(self, why: bytes) -> Quit | None:
        """Say NO to a command, or to an AUTHENTICATE under way, and count it."""
        self._exchange = None
        self.out += b"NO %b\r\n" % string(why)
        return self._counted()

    def _show(self, name: bytes, rest: bytes = b"") -> None:
        """Anything but a command that carries no secret may be a password on the wrong line."""
        if self.shown is None:
            return
        if name in _PUBLIC:
            self.shown(False, name + (b" " + rest if rest else b""))
        elif name in _AFTER_LOGIN or name == b"AUTHENTICATE":
            self.shown(False, name + b" ***")
        else:
            self.shown(False, b"***")


def _arguments(parts: list[bytes]) -> _Arguments | None:
    """Split ``␣word␣"quoted"``, literal, … into values; None when it is something else."""
    values: _Arguments = []
    for number, text in enumerate(parts):
        if number % 2:
            values.append((True, text))
            continue
        at = 0
        while at < len(text):
            match = _ARGUMENT.match(text, at)
            if match is None:
                return None
            quoted, word = match.groups()
            if quoted is None:
                values.append((False, word))
            else:
                values.append((True, unescaped(quoted)))
            at = match.end()
    return values
