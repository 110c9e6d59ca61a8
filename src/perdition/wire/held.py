"""What every grammar does with bytes alike: buffer, parse, and hold behind an event.

`HeldFront` and `HeldBack` carry out that part of the contract of `perdition.wire.base`; a grammar
adds how its lines are read.
Invariant: while an event waits for its verdict nothing is parsed, and nothing is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

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


class HeldFront(ABC):
    """The buffers of a `perdition.wire.base.Front`."""

    __slots__ = (
        "_bad",
        "_buffer",
        "_commands",
        "_failed",
        "_held",
        "_out",
        "_secure",
        "shown",
        "terms",
    )

    def __init__(self, terms: FrontTerms, greeting: bytes) -> None:
        self.terms = terms
        self.shown: Shown | None = None
        self._out = greeting
        self._buffer = b""
        self._held = False  # an event waits for what the session makes of it
        self._secure = terms.tls is TlsUse.SSL
        self._bad = self._failed = 0  # commands and logins refused so far
        self._commands = 0  # answered so far, no login among them

    @abstractmethod
    def _parse(self) -> Event | None:
        """Take commands off the buffer until one is an event or none is whole."""

    @abstractmethod
    def goodbye(self, why: str, *, unavailable: bool = False) -> None:
        """Queue the protocol's word for an end."""

    def receive(self, data: bytes) -> Event | None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._held:
            return None
        event = self._parse()
        if event is not None:
            self._held = True
        return event

    def take(self) -> bytes:
        out, self._out = self._out, b""
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
        "_buffer", "_heard", "_held", "_login", "_origin", "_out", "_secure", "shown", "terms",
    )  # fmt: skip

    full = False  # a server is not read once it has said its verdict

    def __init__(self, login: Login, terms: BackTerms, secure: bool, origin: Origin | None) -> None:
        self.terms = terms
        self.shown: Shown | None = None
        self._login = login
        self._origin = origin  # to be told; None: it was, or is not to be
        self._secure = secure
        self._held = False  # an outcome waits for what the session makes of it
        self._heard = False  # the server has said anything at all
        self._buffer = b""
        self._out = b""

    @abstractmethod
    def _next_line(self) -> bytes | None:
        """Take a whole response off the buffer; None when there is none yet."""

    @abstractmethod
    def _line(self, line: bytes) -> Outcome | None:
        """Understand a response."""

    def receive(self, data: bytes) -> Outcome | None:
        self._buffer = self._buffer + data if self._buffer else data
        self._heard = self._heard or bool(data)
        while not self._held and (line := self._next_line()) is not None:
            if self.shown is not None:
                self.shown(False, line)
            outcome = self._line(line)
            if outcome is not None:
                self._held = True
                return outcome
        return None

    def take(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def _send(self, text: bytes, masked: bytes = b"") -> None:
        """Queue `text`; the log shows `masked` where there is a secret in it."""
        self._out += text
        if self.shown is not None:
            self.shown(True, masked or text)

    def unread(self) -> bytes:
        rest, self._buffer = self._buffer, b""
        return rest
