"""What every grammar does with bytes alike: buffer, parse, and hold behind an event.

`HeldFront` and `HeldBack` carry out that part of the contract of `perdition.wire.base`; a grammar
adds how its lines are read.
Invariant: while an event waits for its verdict nothing is parsed, and nothing is lost.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from perdition.errors import WireError
from perdition.protocols import TlsUse
from perdition.wire.base import (
    BackTerms,
    Event,
    FrontTerms,
    Login,
    Origin,
    Outcome,
    Quit,
    Shown,
)

_COMMANDS = 250  # of one client before its login: answers that it does not read add up
_BRACES = (b"}", b"}\r")  # at the end of a line that may announce a literal


class HeldFront(ABC):
    """The buffers of a `perdition.wire.base.Front`."""

    __slots__ = (
        "_bad",
        "_buffer",
        "_commands",
        "_disabled",
        "_failed",
        "_held",
        "_secure",
        "out",
        "shown",
        "terms",
    )

    def __init__(self, terms: FrontTerms, greeting: bytes) -> None:
        self.terms = terms
        self.shown: Shown | None = None
        self.out = greeting
        self._buffer = b""
        self._held = False  # an event waits for what the session makes of it
        tls = terms.tls
        self._secure = tls is TlsUse.SSL
        self._disabled = terms.login_disabled or tls is TlsUse.TLS_FORCE  # a login is refused
        self._bad = self._failed = 0  # commands and logins refused so far
        self._commands = 0  # answered so far, no login among them

    @abstractmethod
    def _parse(self) -> Event | None:
        """Take commands off the buffer until one is an event or none is whole."""

    @abstractmethod
    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        """Queue the protocol's word for an end."""

    @property
    def _needs_tls(self) -> bool:
        return self.terms.tls is TlsUse.TLS_FORCE and not self._secure

    def _begin_again(self) -> None:
        """TLS is up: end the hold."""
        self._secure = True
        self._disabled = self.terms.login_disabled
        self._held = False

    def receive(self, data: bytes) -> Event | None:
        self._buffer += data
        if self._held:
            return None
        event = self._parse()
        if event is not None:
            self._held = True
        return event

    def take(self) -> bytes:
        out, self.out = self.out, b""
        if self.shown is not None and out:
            self.shown(True, self._masked(out))
        return out

    def _masked(self, out: bytes) -> bytes:
        """What the log shows of `out`, which may repeat something of the client's."""
        return out

    @property
    def full(self) -> bool:
        return self._held and len(self._buffer) >= self.terms.pipeline_limit

    def unread(self) -> bytes:
        rest, self._buffer = self._buffer, b""
        return rest

    def _answered(self) -> Quit | None:
        """Count a command that was carried out; Quit when it was one too many."""
        self._commands += 1
        if self._commands < _COMMANDS:
            return None
        return self._end("Too many commands", "bad_command_limit")

    def _counted(self) -> Quit | None:
        """Count a command that was refused; Quit when it was one too many."""
        self._bad += 1
        most = self.terms.bad_command_limit or _COMMANDS
        if self._bad < most:
            return None
        return self._end("Too many bad commands", "bad_command_limit")

    def _failed_login(self) -> Quit | None:
        """Count a login that was refused; Quit when it was one too many."""
        self._failed += 1
        most = self.terms.failed_login_limit
        if not most or self._failed < most:
            return None
        return self._end("Too many failed logins", "failed_login_limit")

    def _end(self, why: str, limit: str = "") -> Quit:
        """Say goodbye, and parse nothing more."""
        self._buffer = b""
        self._held = True
        self.goodbye(why)
        return Quit(why, limit)


class HeldBack(ABC):
    """The buffers of a `perdition.wire.base.Back`."""

    __slots__ = (
        "_buffer", "_held", "_line_start", "_login", "_origin", "_secure", "out", "shown", "terms",
    )  # fmt: skip

    full = False  # a server is not read once it has said its verdict

    def __init__(self, login: Login, terms: BackTerms, secure: bool, origin: Origin | None) -> None:
        self.terms = terms
        self.shown: Shown | None = None
        self._login = login
        self._origin = origin  # to be told; None: it was, or is not to be
        self._secure = secure
        self._held = False  # an outcome waits for what the session makes of it
        self._buffer = b""
        self._line_start = 0  # where to look for the response's end: behind its literals
        self.out = b""

    @abstractmethod
    def _line(self, line: bytes) -> Outcome | None:
        """Understand a response."""

    def _literal(self, end: int) -> re.Match[bytes] | None:
        """What announces a literal ahead of `end` in the buffer, with its size as first group."""
        return None

    def receive(self, data: bytes) -> Outcome | None:
        """Take bytes from the server.

        A line counts as too long at the same byte whether its end is there already or not.
        """
        rest = self._buffer = self._buffer + data
        if self._held:
            return None
        limit = self.terms.line_limit
        is_simple = len(rest) < limit and b"}" not in rest  # no line too long, no literals
        while rest:
            line, end, rest = rest.partition(b"\n")
            if not is_simple:
                if len(line) >= limit:
                    raise WireError("a line of the server is too long")
                if line.endswith(_BRACES):
                    line, end, rest = self._with_literals()
            if not end:
                return None
            self._buffer = rest
            line += end
            if self.shown is not None:
                self.shown(False, line)
            outcome = self._line(line)
            if outcome is not None:
                self._held = True
                return outcome
        return None

    def _with_literals(self) -> tuple[bytes, bytes, bytes]:
        """Part the buffer behind a whole response, literals included, as `bytes.partition` does."""
        buffer, limit = self._buffer, self.terms.line_limit
        while True:
            end = buffer.find(b"\n", self._line_start) + 1
            if (end or len(buffer) + 1) > limit:
                raise WireError("a line of the server is too long")
            if not end:
                return buffer, b"", b""
            literal = self._literal(end)
            if literal is None:
                self._line_start = 0
                return buffer[: end - 1], b"\n", buffer[end:]
            self._line_start = end + int(literal[1])
            if self._line_start > limit:
                raise WireError("a literal of the server is too long")

    def take(self) -> bytes:
        out, self.out = self.out, b""
        return out

    def _send(self, text: bytes, masked: bytes = b"") -> None:
        """Queue `text`; the log shows `masked` where there is a secret in it."""
        self.out += text
        if self.shown is not None:
            self.shown(True, masked or text)

    def unread(self) -> bytes:
        rest, self._buffer = self._buffer, b""
        return rest
