r"""Dialogue files: what Perdition 2.2 and ours say in the same situation, and why they differ.

A file is one set of options and any number of dialogues that are played with it. Its head:

    # a comment
    option: ok_line hello        a line of the configuration file of both
    server: LOGIN => TAG NO no   what the server does; see `server`
    client: tls                  the client starts with TLS
    map: ^ann$: 127.0.0.1:{port} a line of the popmap; `{port}`: the dialogue's server,
                                 `{own}`: the daemon itself, `{key}`: the client's address

and each dialogue:

    == its name                  then `server:` and `map:` of its own, if any
    C: a NOOP                    the client says it, CRLF added; `C: (tls)` is a handshake
    S: a OK NOOP                 both daemons answer it
    S 2 D01: OK, mate            only Perdition 2.2 answers it, for reason D01 of docs/migrate.md
    S 3 D01: OK                  only ours does
    B: flim07 CAPABILITY         the server heard it; LOGIN's arguments as quoted strings
    L: Closing session: …        the daemon logged it; ports, addresses and host names masked

``\x00`` and the like stand for bytes, a ``\c`` at the end for "no CRLF". B and L stand at the end.
Invariant: what `parse` reads and `render` writes is the same text, comments included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

OLD, NEW = "2", "3"
BOTH = ""
UNKNOWN = "D??"  # the reason of a difference that nobody has given one yet

_LINE = re.compile(r"([CSBL])(?: ([23]) (D\S+))?: ?(.*)")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|[rnt\\])")
_NAMED = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a dialogue; `who` is BOTH, OLD or NEW."""

    kind: str
    text: str
    who: str = BOTH
    reason: str = ""

    def __str__(self) -> str:
        mark = f" {self.who} {self.reason}" if self.who else ""
        return f"{self.kind}{mark}: {self.text}".rstrip(" ")


@dataclass(slots=True)
class Head:
    """What stands ahead of the lines: of a file or of a dialogue."""

    lines: list[str] = field(default_factory=list)  # as they stand, comments included

    def values(self, key: str) -> list[str]:
        """The values of all lines of one key."""
        return [line[len(key) + 2 :] for line in self.lines if line.startswith(f"{key}: ")]


@dataclass(slots=True)
class Dialogue:
    """One conversation, and what came of it at the server and in the log."""

    name: str
    head: Head = field(default_factory=Head)
    lines: list[Line] = field(default_factory=list)

    def of(self, who: str) -> list[Line]:
        """The lines of one daemon, without marks."""
        return [Line(line.kind, line.text) for line in self.lines if line.who in (BOTH, who)]

    @property
    def differences(self) -> list[Line]:
        """The lines that one daemon only says, hears or logs."""
        return [line for line in self.lines if line.who]


@dataclass(slots=True)
class DialogueFile:
    """A set of options with the dialogues played under it."""

    path: Path
    head: Head = field(default_factory=Head)
    dialogues: list[Dialogue] = field(default_factory=list)

    @property
    def protocol(self) -> str:
        """The protocol's name as in the commands: imap4, imap4s, pop3, pop3s, managesieve."""
        return self.path.parent.name


def parse(path: Path) -> DialogueFile:
    """Read a file."""
    result = DialogueFile(path)
    dialogue: Dialogue | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("== "):
            dialogue = Dialogue(line[3:])
            result.dialogues.append(dialogue)
        elif match := _LINE.fullmatch(line):
            assert dialogue is not None, f"{path}:{number}: no dialogue yet"
            kind, who, reason, text = match.groups()
            assert not (who and kind == "C"), f"{path}:{number}: both hear the same"
            dialogue.lines.append(Line(kind, text, who or BOTH, reason or ""))
        elif line:
            known = re.match(r"#|(option|server|client|map): ", line)
            assert known, f"{path}:{number}: {line}"
            assert dialogue is None or not dialogue.lines, f"{path}:{number}: too late: {line}"
            (result.head if dialogue is None else dialogue.head).lines.append(line)
    return result


def render(file: DialogueFile) -> str:
    """Write a file."""
    blocks = ["\n".join(file.head.lines)] if file.head.lines else []
    for dialogue in file.dialogues:
        lines = [f"== {dialogue.name}", *dialogue.head.lines, *map(str, dialogue.lines)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def merge(before: list[Line], old: list[Line], new: list[Line]) -> list[Line]:
    """Lay the lines of two daemons side by side; reasons are those given before."""
    reasons = {(line.kind, line.who, line.text): line.reason for line in before if line.who}

    def marked(lines: list[Line], who: str) -> list[Line]:
        return [
            Line(line.kind, line.text, who, reasons.get((line.kind, who, line.text), UNKNOWN))
            for line in lines
        ]

    merged: list[Line] = []
    for ours, theirs in zip(_blocks(old), _blocks(new), strict=True):
        for what, at, upto, from_, to in SequenceMatcher(None, ours, theirs, False).get_opcodes():
            if what == "equal":
                merged += ours[at:upto]
            else:
                merged += marked(ours[at:upto], OLD) + marked(theirs[from_:to], NEW)
    return merged


def _blocks(lines: list[Line]) -> list[list[Line]]:
    """Cut ahead of what the client says, and ahead of what server and log say."""
    blocks: list[list[Line]] = [[]]
    for line in lines:
        if line.kind == "C":
            blocks.append([])
        if line.kind in "CS":
            blocks[-1].append(line)
    return [*blocks, [x for x in lines if x.kind == "B"], [x for x in lines if x.kind == "L"]]


def to_bytes(text: str) -> bytes:
    """The bytes that a line of a file stands for."""
    body = text.removesuffix("\\c")
    data = _ESCAPE.sub(
        lambda found: _NAMED.get(found[1]) or chr(int(found[1][1:], 16)), body
    ).encode("latin-1")
    return data if text.endswith("\\c") else data + b"\r\n"


def to_text(data: bytes) -> str:
    """Write a line as the files do."""
    body = data.removesuffix(b"\r\n")
    text = "".join(
        _ESCAPED.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
        for byte in body
    )
    if text.endswith(" "):
        text = text[:-1] + "\\x20"
    return text if body != data else text + "\\c"


_ESCAPED = {ord(value): f"\\{name}" for name, value in _NAMED.items()}
