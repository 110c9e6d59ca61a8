r"""Words of a text as the configuration file and the regular-expression map are written.

Outside single quotes a backslash makes the next character plain; an end of line within quotes, or
behind a backslash, is dropped. CR, LF and CRLF end a line. Pure; nothing is opened here.
Invariant: the tokens' lengths add up to the text, so that line numbers are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<end> \n )
    | (?P<blank> [ \t]+ )
    | (?P<comment> \# (?: [^\n\\] | \\. )*+ )
    | \\ (?P<escaped> . )
    | " (?P<double> (?: [^"\\] | \\. )*+ ) "
    | ' (?P<single> [^']*+ ) '
    | (?P<plain> [^\n \t\#\\"']+ )
    | \\ \Z
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Token(NamedTuple):
    """A piece of a text; words without a blank between them belong together."""

    kind: str  # "end", "blank", "word"; "unclosed": a quote that never ends, the last token
    text: str
    line: int  # counted from 1


def tokens(text: str) -> Iterator[Token]:
    """Cut a text into tokens; comments are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            yield Token("unclosed", "", line)
            return
        at = found.end()
        kind = found.lastgroup
        if kind in ("end", "blank"):
            yield Token(kind, found[0], line)
        elif kind != "comment":
            yield Token("word", _plain(kind, found), line)
        line += found[0].count("\n")


def _plain(kind: str | None, token: re.Match[str]) -> str:
    """The text that a token stands for; an escaped end of line is nothing."""
    word = token[kind] if kind else ""
    if kind == "double":
        word = _ESCAPE.sub(r"\1", word)
    return word.replace("\n", "")


def lines(text: str) -> Iterator[tuple[int, list[str] | None]]:
    """The words of each line that has any, with its number; None for a quote that never ends."""
    words: list[str] = []
    start, apart = 1, True
    for kind, piece, line in tokens(text):
        if kind == "word":
            if not words:
                start = line
            if apart:
                words.append(piece)
            else:
                words[-1] += piece
        elif kind == "unclosed":
            yield line, None
            return
        elif kind == "end" and words:
            yield start, words
            words = []
        apart = kind != "word"
    if words:
        yield start, words
