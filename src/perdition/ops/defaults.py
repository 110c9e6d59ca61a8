"""/etc/default/perdition: which daemons an administrator wants, and with which words.

It is a shell file that 2.2's init script sourced. Nothing of it is run here: assignments, quotes,
comments and ``export`` are understood, anything else is refused with file and line. The names and
what their absence means are those of 2.2 (section 2.8 of its description).
Invariant: what is understood means the same as it does to a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from perdition.errors import ConfigError
from perdition.protocols import COMMANDS, PROTOCOLS

PATH = "/etc/default/perdition"
LIMIT = 65_536  # bytes of the file
MASTER = "RUN_PERDITION"  # no daemon runs unless this is yes

# Name in the file -> the daemon's command: of two aliases the later, as in the init script.
DAEMONS: dict[str, str] = {protocol: command for command, protocol in COMMANDS.items()}

_SWITCHES = (MASTER, *PROTOCOLS)
_KNOWN = (*_SWITCHES, "FLAGS", *(f"{protocol}_FLAGS" for protocol in PROTOCOLS))
# The init script takes every word but yes for no; these can't have been meant otherwise.
_NO = ("", "no", "n", "false", "off", "0")

_BETWEEN = re.compile(r"(?:[ \t]|\\\n|(?<![^\s;])#[^\n]*)+")
_PIECE = re.compile(
    r"""'(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\$`]|\\.)*)"
      | \\(?P<escaped>.)
      | (?P<bare>(?:[^\s'"\\$`;&|<>()~]|(?<![=:])~)+)""",  # behind = and : a shell expands it
    re.DOTALL | re.VERBOSE,
)
_IN_DOUBLE = re.compile(r'\\(?:(["\\$`])|\n)')
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z_0-9]*)=(.*)", re.DOTALL)
_BLANKS = re.compile(r"[ \t\n]+")  # a shell's; str.split() would take others, too
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")

_Word = tuple[int, str, bool]  # line, text, whether it begins with an unquoted NAME=


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the file says."""

    path: str
    running: bool  # RUN_PERDITION
    chosen: tuple[str, ...]  # names of protocols; empty unless `running`
    words: dict[str, tuple[str, ...]]  # by protocol: FLAGS, then its own
    environment: dict[str, str]  # what the file exports to the daemons


def read_defaults(path: str = PATH) -> Defaults:
    """Read the file; ConfigError for one that can't be read or understood.

    Debian's own may be missing, which chooses nothing; any other must be there.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LIMIT + 1)
    except OSError as error:
        if not (isinstance(error, FileNotFoundError) and path == PATH):
            raise ConfigError([f"{path}: {error.strerror}"]) from None
        content = b""
    if len(content) > LIMIT:
        raise ConfigError([f"{path}: longer than {LIMIT} bytes"])
    return parse_defaults(content.decode("utf-8", "surrogateescape"), path)


def parse_defaults(text: str, path: str) -> Defaults:
    """Understand the text of the file; ConfigError has every problem with its line."""
    values: dict[str, str] = {}
    exported: set[str] = set()
    problems: list[str] = []
    try:
        for command in _commands(text):
            exports = command[0][1] == "export"
            for line, word, bare in command[1:] if exports else command:
                # A quoted name is a command to a shell, but export takes it.
                assignment = _ASSIGNMENT.fullmatch(word) if bare or exports else None
                name, value = assignment.groups() if assignment else (word, None)
                if wrong := _wrong(name, value, exports):
                    problems.append(f"{path}:{line}: {wrong}")
                    if value is None:
                        break  # a command with its words: one complaint is enough
                if value is not None:
                    values[name] = value
                if exports:
                    exported.add(name)
    except _NotUnderstoodError as error:
        problems.append(f"{path}:{error}")
    if problems:
        raise ConfigError(problems)
    running = values.get(MASTER) == "yes"
    shared = _split(values.get("FLAGS", ""))
    return Defaults(
        path,
        running,
        # An empty value counts as none: the init script says ${POP3:=yes}.
        tuple(p for p in PROTOCOLS if running and (values.get(p) or "yes") == "yes"),
        {p: (*shared, *_split(values.get(f"{p}_FLAGS", ""))) for p in PROTOCOLS},
        {name: values[name] for name in sorted(exported) if name in values},
    )


def _split(value: str) -> tuple[str, ...]:
    return tuple(word for word in _BLANKS.split(value) if word)


def _wrong(name: str, value: str | None, exports: bool) -> str:
    """Say what is wrong with one word; empty for nothing."""
    if value is None:
        if exports and _NAME.fullmatch(name):
            return ""
        return "not an assignment: only NAME=VALUE is, values with blanks in quotes"
    if name not in _KNOWN:
        near = _nearest(name.upper(), _KNOWN)
        # What is exported may be meant for the daemons.
        return f"unknown name: {name}{near}" if near or not exports else ""
    if name in _SWITCHES and value != "yes" and value.lower() not in _NO:
        near = _nearest(value.lower(), ("yes", "no"))
        return f"{name}: neither yes nor no: {value!r}{near}"
    return ""


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


class _NotUnderstoodError(Exception):
    """The text is no list of assignments; the error's text begins with the line."""


def _commands(text: str) -> Iterator[list[_Word]]:
    """Cut the text into the words of each command, quotes removed; no command is empty."""
    if "\0" in text:
        raise _NotUnderstoodError(f"{_line(text, text.index(chr(0)))}: a NUL byte")
    words: list[_Word] = []
    at = 0
    while at < len(text):
        if between := _BETWEEN.match(text, at):
            at = between.end()
        elif text[at] in "\n;":
            if words:
                yield words
            elif text[at] == ";":
                raise _NotUnderstoodError(f"{_line(text, at)}: nothing stands before the ;")
            words = []
            at += 1
        else:
            line, bare = _line(text, at), _ASSIGNMENT.match(text, at) is not None
            word, at = _word(text, at)
            words.append((line, word, bare))
    if words:
        yield words


def _word(text: str, at: int) -> tuple[str, int]:
    """Read the word that begins at `at`; return it without its quotes, and where it ends."""
    start, word = at, ""
    while at < len(text) and text[at] not in " \t\n;":
        piece = _PIECE.match(text, at)
        if piece is None:
            raise _NotUnderstoodError(f"{_line(text, start)}: {_why(text, at)}")
        if piece["double"] is not None:
            word += _IN_DOUBLE.sub(lambda found: found[1] or "", piece["double"])
        else:
            word += piece["single"] or (piece["escaped"] or "").strip("\n") or piece["bare"] or ""
        at = piece.end()
    return word, at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _why(text: str, at: int) -> str:
    if text[at] == "'" or (text[at] == '"' and not re.search(r"[$`]", text[at:].split('"')[1])):
        return f"the quote {text[at]} is not closed"
    sign = text[at] if text[at] != '"' else "$ or `"
    return f"{sign!a} is not understood here: write the value in full, nothing is expanded or run"
