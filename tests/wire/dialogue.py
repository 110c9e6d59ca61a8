r"""Dialogue files: what a grammar hears and says, line by line.

A file is played three times: whole blocks, byte by byte, and line by line. Each line is one of

    terms: ready=b"x"     terms of the grammar (Python), login=(user, password, authorisation id)
    C: a NOOP             client to server, CRLF added
    S: a OK NOOP          server to client, CRLF added
    E: login 'u' 'p'      the event or outcome that the grammar gives
    V: refused LOCAL      the session's verdict on it; then the grammar goes on
    U: b SELECT INBOX     what is left unread for the other side
    # a comment

``\x00`` and the like stand for bytes, a ``\c`` at the end for "no CRLF". For a front, ``C:`` is
what it hears and ``S:`` what it says; for a back it is the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perdition.errors import WireError
from perdition.protocols import TlsUse
from perdition.wire.base import (
    Accepted,
    Back,
    BackTerms,
    Front,
    FrontTerms,
    Login,
    Origin,
    Quit,
    Reason,
    Refused,
    StartTls,
)

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    """All at once."""
    yield data


def each_byte(data: bytes) -> Iterator[bytes]:
    """Byte by byte."""
    for at in range(len(data)):
        yield data[at : at + 1]


def each_line(data: bytes) -> Iterator[bytes]:
    """Cut behind each CRLF."""
    yield from re.findall(rb"[^\n]*\n|[^\n]+", data)


ORIGIN = Origin(("192.0.2.1", 40000), ("2001:db8::5", 993), "c2Vzc2lvbg")  # with `forward=True`

CUTS: dict[str, Cut] = {"whole": whole, "each byte": each_byte, "each line": each_line}


def _bytes(text: str) -> bytes:
    data = re.sub(
        rb"\\(x[0-9a-f]{2}|[rn0\\])",
        lambda found: (
            {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"\\": b"\\"}.get(found[1])
            or bytes.fromhex(found[1][1:].decode())
        ),
        text.removesuffix("\\c").encode(),
    )
    return data if text.endswith("\\c") else data + b"\r\n"


def _words(event: object) -> str:
    """An event or outcome as the files write it."""
    match event:
        case None:
            return "nothing"
        case Login(disabled=True):
            who = b" ".join((event.authentication_id, event.authorisation_id)).strip().decode()
            return f"disabled {who}".rstrip()
        case Login(user, password, authorisation):
            names = [user, password, authorisation] if authorisation else [user, password]
            return " ".join(["login", *(repr(name)[1:] for name in names)])
        case StartTls():
            return "starttls"
        case Quit(why):
            return f"quit {why}".rstrip()
        case Accepted(passed, text):
            return ("accepted " + text.decode() if text else "accepted") + _passed(passed)
        case Refused():
            said = (event.status + b" " + event.text).strip().decode()
            return f"refused {event.reason.name} {said}".rstrip() + _passed(event.passed)
        case WireError():
            return f"nonsense: {event}"
    raise AssertionError(event)


def _passed(lines: bytes) -> str:
    return f" passed {lines!r}" if lines else ""


def _read(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    terms: dict[str, Any] = {}
    lines = []
    for line in path.read_text().splitlines():
        key, _, text = line.partition(": ") if ": " in line else (line.rstrip(":"), "", "")
        if not line.strip() or line.startswith("#"):
            continue
        if key == "terms":
            terms |= eval(f"dict({text})", {"TlsUse": TlsUse})
        else:
            assert key in "CSEVU", f"{path}: {line}"
            lines.append((key, text))
    return terms, lines


class _Player:
    """Plays one file with one grammar and one way of cutting."""

    def __init__(self, grammar: Any, hears: str, cut: Cut) -> None:
        self.grammar = grammar
        self.hears = hears
        self.cut = cut
        self.said = grammar.take()
        self.event: object = None

    def hear(self, data: bytes) -> None:
        for part in self.cut(data):
            try:
                event = self.grammar.receive(part)
            except WireError as error:
                event = error
            self.said += self.grammar.take()
            if event is not None:
                assert self.event is None, f"a second event: {event!r}"
                self.event = event
            if isinstance(event, WireError):
                return

    def verdict(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        event: object = None
        if word == "accepted":
            self.grammar.accepted(Accepted(b"", rest.encode()))
        elif word == "refused":
            name, _, said = rest.partition(" ")
            event = self.grammar.refused(
                Refused(Reason[name], said.encode(), b"NO" if said else b"")
            )
        elif word == "secured":
            event = self.grammar.secured()
        else:
            raise AssertionError(text)
        if event is None and word != "accepted" and self.hears == "C":
            event = self.grammar.receive(b"")
        self.said += self.grammar.take()
        self.event = event

    def play(self, lines: list[tuple[str, str]]) -> None:
        heard = b""
        for number, (key, text) in enumerate(lines):
            if key == self.hears:
                heard += _bytes(text)
                if number + 1 < len(lines) and lines[number + 1][0] == self.hears:
                    continue
                assert not self.said, f"said too much: {self.said!r}"
                self.hear(heard)
                heard = b""
            elif key in "CS":
                wanted = _bytes(text)
                assert self.said[: len(wanted)] == wanted, f"{text!r} expected, said {self.said!r}"
                self.said = self.said[len(wanted) :]
            elif key == "E":
                assert _words(self.event) == text
                self.event = None
            elif key == "V":
                self.verdict(text)
            else:
                assert self.grammar.unread() == _bytes(text)
        assert self.said == b""
        assert self.event is None, _words(self.event)


def play_front(kind: type[Front], path: Path, cut: Cut) -> None:
    """Play a file with a front."""
    terms, lines = _read(path)
    given = {"ready": b"perdition ready on dmz 01234567", "capability": "IMAP4rev1"} | terms
    _Player(kind(FrontTerms(**given)), "C", cut).play(lines)


def play_back(kind: type[Back], path: Path, cut: Cut) -> None:
    """Play a file with a back."""
    terms, lines = _read(path)
    login = Login(*terms.pop("login", (b"user", b"secret", b"")))
    secure = terms.pop("secure", False)
    origin = ORIGIN if terms.pop("forward", False) else None
    given = {"ready": b"01234567"} | terms
    back = kind(login, BackTerms(**given), secure=secure, origin=origin)
    _Player(back, "S", cut).play(lines)
