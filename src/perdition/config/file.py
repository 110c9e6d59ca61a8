r"""The configuration file's grammar, as Perdition 2.2 reads it: text -> settings.

    timeout 30                  # one option a line, by its long name or its letter
    ok_line He said \"come in\"   # behind the first blanks everything is one value
    imap_capability "IMAP4rev1 ID # not a comment"
    query_key '\U,\u'           # nothing is special in single quotes but the next one
    outgoing_server a.example,\
    b.example                   # a backslash takes the line's end away, in comments too

How words are quoted is in `perdition.words`. Other than in 2.2 a line may be indented, the last one
may lack its end, and a flag may have a value. Nothing is opened here, and no value is read.
Invariant: what `quote` writes is read back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from perdition.config.fields import Setting
from perdition.config.options import LETTERS, LONG_NAMES, unknown
from perdition.words import tokens


class _Line(NamedTuple):
    number: int
    key: str
    value: str | None
    unclosed: bool = False  # a quote that never ends: nothing can be read from here on


def quote(value: str) -> str:
    """Write a value so that it is read back as it is; it must not hold ends of lines."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(path: str, text: str, *, ignored: bool = False) -> Iterator[Setting | str]:
    """What a file sets, and what is wrong with it, line by line; also what is ignored, if asked."""
    for line in _lines(text):
        try:
            setting = _setting(path, line)
        except ValueError as error:
            yield f"{path}:{line.number}: {error}"
        else:
            if ignored or not setting.option.argv_only:
                yield setting


def _setting(path: str, line: _Line) -> Setting:
    if line.unclosed:
        raise ValueError("a quote is opened and never closed")
    key, value = line.key, line.value
    if "=" in key:
        key, _, behind = key.partition("=")
        if value is not None:
            raise ValueError(f"{key}: more than one value; quote a value that holds blanks")
        value = behind
    option = (LETTERS if len(line.key) == 1 else LONG_NAMES).get(key)
    if option is None:
        raise ValueError(f"{key}: {unknown(key)}" if key else "a value without an option")
    if value is None and not (option.is_flag or option.argv_only):
        raise ValueError(f"{key}: missing value")
    return Setting(f"{path}:{line.number}: {key}", option, value)


def _lines(text: str) -> Iterator[_Line]:
    """Cut a text into logical lines that say something."""
    key: str | None = None
    value: str | None = None
    blanks, start = "", 1
    for kind, piece, number in tokens(text):
        if kind == "unclosed":
            yield _Line(number, "", None, unclosed=True)
            return
        if kind == "end":
            if key or value is not None:
                yield _Line(start, key or "", value)
            key, value, blanks = None, None, ""
        elif kind == "blank":
            blanks += piece
        else:
            if key is None:
                key, start = piece, number
            elif value is None and not blanks:
                key += piece
            else:
                value = piece if value is None else value + blanks + piece
            blanks = ""
    if key or value is not None:
        yield _Line(start, key or "", value)
