"""POP3 before and at the login (RFC 1939; 2449 CAPA, 2595 STLS, 5034 AUTH, 3206 response codes).

    S: +OK POP3 perdition ready on HOST HEX
    C: CAPA                              S: +OK Capability list follows  /  UIDL  /  …  /  .
    C: STLS                              S: +OK Begin TLS negotiation
    C: USER name                         S: +OK USER name set
    C: PASS the rest of the line         S: +OK You are so in
    C: AUTH PLAIN AHUAc2VjcmV0           S: -ERR [AUTH] …
    C: AUTH LOGIN                        S: + VXNlcm5hbWU6
    C: *                                 S: -ERR AUTH cancelled

It differs from 2.2 on purpose: the greeting is spelt right, texts are plain English, and only
words of fewer than four letters are called too short. CAPA adds SASL and RESP-CODES, which 2.2
had not, and leaves out USER and SASL while no login would be let through (2.2 listed USER; the
command is still answered, as there). AUTH is taken. NUL and CR in a name or password are refused,
not cut out. A name that makes the reply longer than RFC 2449 allows is left out of it, a server's
text is cut. What USER said outlives a failed AUTH, which then counts as not given (RFC 5034, 4).
A refused client hears the server's own words (`hide_server_errors`: 2.2's), our own troubles carry
[SYS/TEMP]. STLS forgets the name that USER set (RFC 2595, 4).
There is no untagged goodbye in POP3: the line that says why we end answers what comes next.
The way to the server is in `pop3_back`.
"""

from __future__ import annotations

from functools import lru_cache

from perdition.protocols import TlsUse
from perdition.wire import sasl
from perdition.wire.base import Accepted, Event, FrontTerms, Login, Quit, Reason, Refused, StartTls
from perdition.wire.held import HeldFront
from perdition.wire.pop3_back import Back

__all__ = ["Back", "Front"]

# Commands that take something behind their name, and what.
_ARGUMENT = {
    b"USER": b" <username>",
    b"PASS": b" <password>",
    b"AUTH": b" <mechanism> [<initial response>]",
}
_SHORTEST = 4  # letters of a command (RFC 1939, 3: three or four; all of ours have four)
_REPLY_LIMIT = 512  # bytes of a reply, CRLF included (RFC 2449, 4)
_SKIPPED = 65536  # bytes of lines too long that are read past


def _entries(capability: str) -> list[bytes]:
    """The lines that the option lists: between dots or, where there is none, two blanks."""
    between = "." if "." in capability else "  "
    return [line for line in map(bytes.strip, capability.encode().split(between.encode())) if line]


@lru_cache(maxsize=64)
def _capability(terms: FrontTerms, secure: bool) -> bytes:
    """The lines announced: what this front does itself as it applies, no way in that is shut."""
    offer_tls = terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE) and not secure
    shut = terms.login_disabled or (terms.tls is TlsUse.TLS_FORCE and not secure)
    lines = {line.split()[0].upper(): line for line in _entries(terms.capability)}
    lines.setdefault(b"SASL", b"SASL " + b" ".join(sasl.MECHANISMS))
    lines.setdefault(b"RESP-CODES", b"RESP-CODES")
    if shut:
        del lines[b"SASL"]
        lines.pop(b"USER", None)
    if offer_tls:
        lines.setdefault(b"STLS", b"STLS")
    else:
        lines.pop(b"STLS", None)
    return b"".join(line + b"\r\n" for line in lines.values())


@lru_cache(maxsize=64)
def _greeting(terms: FrontTerms) -> bytes:
    return b"+OK POP3 %b\r\n" % terms.ready


class Front(HeldFront):
    """Our half of the talk with a POP3 client; see `perdition.wire.base.Front`."""

    __slots__ = (
        "_exchange", "_skip", "_skipped", "_user",
    )  # fmt: skip

    def __init__(self, terms: FrontTerms) -> None:
        super().__init__(terms, _greeting(terms))
        self._user: bytes | None = None  # what USER set, until a PASS takes it
        self._exchange: sasl.Exchange | None = None  # an AUTH under way
        self._skip = False  # read past the rest of the line
        self._skipped = 0  # bytes read past in all

    # -- the contract -----------------------------------------------------------------------

    def secured(self) -> Event | None:
        if self._buffer:  # it came in clear text, while STLS was being answered
            return self._end("Input behind STLS in clear text")
        self._begin_again()
        self._user = None
        return None

    def refused(self, refused: Refused) -> Quit | None:
        terms, reason = self.terms, refused.reason
        self._held = False
        if refused.text and (terms.server_resp_line or not terms.hide_server_errors):
            text = refused.text
        elif reason is Reason.LOCAL:
            text = b"[AUTH] Authentication failure"
        else:
            code = b"[SYS/TEMP] " if reason.is_temporary else b""
            text = b"%bfailed: %b" % (code, reason.value.encode())
        self.out += b"%b-ERR %b\r\n" % (refused.passed, text[: _REPLY_LIMIT - 7])
        return self._failed_login()

    def accepted(self, accepted: Accepted) -> None:
        text = accepted.text if self.terms.server_resp_line else self.terms.ok_line
        self.out += b"%b+OK%b%b\r\n" % (accepted.passed, b" " if text else b"", text)

    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        code = "[SYS/TEMP] " if unavailable else ""
        self.out += f"-ERR {code}{why}\r\n".encode()

    # -- lines ------------------------------------------------------------------------------

    def _parse(self) -> Event | None:
        """Take lines off the buffer until one is an event or none is whole.

        A line counts as too long at the same byte whether its end is there already or not.
        """
        limit = self.terms.line_limit
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if self._skip:
                self._skipped += len(line + end)
                self._buffer = rest
                self._skip = not end
                if self._skipped > _SKIPPED:
                    return self._end("Too much input refused")
                if not end:
                    return None
                continue
            if len(line) >= limit:
                self._skip = True
                event: Event | None = self._bad_command(b"Line too long")
            elif not end:
                return None
            else:
                self._buffer = rest
                event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                return event

    def _line(self, line: bytes) -> Event | None:
        if self._exchange is not None:
            self._show(b"")
            return self._response(line)
        word, blank, rest = line.partition(b" ")
        name = word.upper()
        if self.shown is not None:
            self._show(name, rest)
        if name == b"USER":
            return self._set_user(rest)
        if name == b"PASS":
            return self._pass(rest) if blank else self._pass(None)
        if name == b"AUTH":
            return self._auth(rest)
        if name in (b"CAPA", b"QUIT") or (name == b"STLS" and self._takes_tls):
            return self._wrong_count(name) if blank else self._plain_command(name)
        if not name:
            return self._bad_command(b"Null command")
        short = b"is too short, " if len(name) < _SHORTEST else b""
        stls = b"STLS, " if self._takes_tls and not self._secure else b""
        known = b"%bCAPA, USER, PASS, AUTH or QUIT" % stls
        return self._bad_command(b"The command %bmust be one of %b" % (short, known))

    # -- commands ---------------------------------------------------------------------------

    @property
    def _takes_tls(self) -> bool:
        return self.terms.tls in (TlsUse.TLS, TlsUse.TLS_FORCE)

    def _plain_command(self, name: bytes) -> Event | None:
        if name == b"CAPA":
            lines = _capability(self.terms, self._secure)
            self.out += b"+OK Capability list follows\r\n%b.\r\n" % lines
        elif name == b"QUIT":
            self.out += b"+OK QUIT\r\n"
            return Quit()
        elif self._secure:
            return self._bad_command(b"TLS already active")
        elif self._buffer:
            return self._end("Input behind STLS in clear text")
        else:
            self.out += b"+OK Begin TLS negotiation\r\n"
            return StartTls()
        return self._answered()

    def _set_user(self, user: bytes) -> Quit | None:
        if not user or b" " in user:
            return self._wrong_count(b"USER")
        if not sasl.is_clean(user):
            return self._unclean()
        again, self._user = self._user is not None, user
        reply = b"+OK USER %b set\r\n" % user
        self.out += reply if len(reply) <= _REPLY_LIMIT else b"+OK USER set\r\n"
        return self._answered() if again else None

    def _pass(self, password: bytes | None) -> Event | None:
        user = self._user
        if user is None:
            return self._bad_command(b"USER not yet set")
        if password is None:
            return self._wrong_count(b"PASS")
        if not sasl.is_clean(password):
            return self._unclean()
        self._user = None
        return Login(user, password, disabled=self._disabled)

    def _auth(self, rest: bytes) -> Event | None:
        words = rest.split(b" ")
        if len(words) > 2 or not all(words):
            return self._wrong_count(b"AUTH")
        if self._disabled:
            return sasl.shut_out(words[0].upper(), words[1] if len(words) == 2 else b"")
        try:
            self._exchange = sasl.Exchange(words[0].upper())
        except ValueError:
            return self._bad_command(b"AUTH mechanism not supported")
        if len(words) == 2:
            return self._response(b"" if words[1] == b"=" else words[1])
        self.out += b"+ %b\r\n" % self._exchange.challenge()
        return None

    def _response(self, line: bytes) -> Event | None:
        """One line of an AUTH under way."""
        exchange = self._exchange
        assert exchange is not None
        if line == b"*":
            return self._bad_command(b"AUTH cancelled")
        try:
            login = exchange.respond(line)
        except ValueError:
            return self._bad_command(b"Invalid SASL response")
        if login is None:
            self.out += b"+ %b\r\n" % exchange.challenge()
            return None
        if not login.authentication_id:  # nor can USER give none
            return self._bad_command(b"Invalid SASL response")
        self._exchange = None
        return login

    # -- complaints -------------------------------------------------------------------------

    def _wrong_count(self, name: bytes) -> Quit | None:
        return self._bad_command(b"Try: %b%b" % (name, _ARGUMENT.get(name, b"")))

    def _unclean(self) -> Quit | None:
        return self._bad_command(b"NUL, CR and LF are not allowed here")

    def _bad_command(self, why: bytes) -> Quit | None:
        self._exchange = None
        self.out += b"-ERR %b\r\n" % why
        return self._counted()

    def _show(self, name: bytes, rest: bytes = b"") -> None:
        """Anything but a command that is known may be a password on the wrong line."""
        if self.shown is None:
            return
        if name == b"USER" and b" " not in rest:
            self.shown(False, b"USER " + rest)
        elif name in _ARGUMENT or name in (b"CAPA", b"QUIT", b"STLS", b"NOOP"):
            self.shown(False, name + (b" ***" if rest else b""))
        else:
            self.shown(False, b"***")
