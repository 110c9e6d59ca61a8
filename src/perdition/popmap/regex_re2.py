"""The regex map's engine: RE2, which takes time in proportion to the key, whatever the expression.

The literal parts of all expressions are looked for at once, and only those whose parts are there
are tried: ten thousand cost little more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import re2

from perdition.errors import MapError
from perdition.popmap.regex_rules import PIECE, Found, Rule

_TOGETHER = 2000  # expressions whose literal parts are looked for at once
_SAME = b"wWsSbB"  # escapes that mean the same in RE2
_ENDS = {b"`": b"^", b"'": b"$"}
_WORD = re.compile(rb"\w")


class Rules:
    """Some of the file's rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Compile them; re2.error when their literal parts are too much for one search."""
        options = _options()
        self._answers = [rule.answer for rule in rules]
        self._filter = re2.Filter()
        for rule in rules:
            self._filter.Add(rule.expression, options)
        self._filter.Compile()

    def first(self, key: bytes) -> Found | None:
        """The first expression that matches, and its answer."""
        matching = self._filter.Match(key)
        if not matching:
            return None
        number = min(matching)
        found = self._filter.re(number).search(key)
        groups = (found[0], *(text or b"" for text in found.groups()))
        return Found(found.start(), groups, self._answers[number])


def compiled(rules: Sequence[Rule]) -> list[Rules]:
    """The rules, in the file's order, in as few parts as possible."""
    parts = (rules[at : at + _TOGETHER] for at in range(0, len(rules), _TOGETHER))
    return [each for part in parts for each in _compiled(part)]


def _compiled(rules: Sequence[Rule]) -> Iterator[Rules]:
    try:
        yield Rules(rules)
    except re2.error:
        if len(rules) == 1:
            raise MapError(f"{rules[0].number}: {_reason(rules[0])}") from None
        half = len(rules) // 2
        yield from _compiled(rules[:half])
        yield from _compiled(rules[half:])


def checked(expression: bytes) -> bytes:
    """The expression as this engine takes it; ValueError for what it would misunderstand.

    What it refuses it does when the rules are compiled, which is done once.
    """
    return translated(expression)


def _reason(rule: Rule) -> str:
    """Why RE2 does not take an expression, which it says only of one alone."""
    try:
        re2.compile(rule.expression, _options())
    except re2.error as error:
        why = error.args[0] if error.args else "not understood"
        return why.decode("latin-1") if isinstance(why, bytes) else str(why)
    return "takes too much memory"


def _options() -> Any:
    options = re2.Options()
    options.posix_syntax = True
    options.longest_match = True
    options.perl_classes = options.word_boundary = True  # \w and \b, as glibc has them
    options.one_line = True
    options.dot_nl = True
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are
    return options


def translated(expression: bytes) -> bytes:
    r"""An extended expression of the GNU C library in the spelling of RE2.

    ValueError for what RE2 can't do or would take for something else: back-references, collating
    elements, ``\<`` and ``\>`` away from a letter or digit, escaped letters such as ``\d``.
    """
    pieces = list(PIECE.finditer(expression))
    return b"".join(_piece(pieces, at) for at in range(len(pieces)))


def _piece(pieces: list[re.Match[bytes]], at: int) -> bytes:
    piece = pieces[at]
    if piece.lastgroup == "atmost":
        return b"{0"
    if piece.lastgroup == "class":
        if b"[." in piece[0][1:] or b"[=" in piece[0][1:]:
            raise ValueError("collating elements such as [.a.] are not supported")
        return piece[0].replace(b"\\", rb"\\")  # a backslash is plain there
    escaped = piece["escaped"]
    if escaped is None or escaped in _SAME:
        return piece[0]
    if escaped in _ENDS:
        return _ENDS[escaped]
    if escaped in b"<>":
        beside = at + 1 if escaped == b"<" else at - 1
        if 0 <= beside < len(pieces) and _WORD.fullmatch(pieces[beside][0]):
            return rb"\b"
        raise ValueError(f"\\{escaped.decode()} stands beside no letter or digit; \\b may do")
    if escaped.isdigit():
        raise ValueError(f"back-references such as \\{escaped.decode()} are not supported")
    if escaped.isalpha():
        raise ValueError(f"\\{escaped.decode('latin-1')} means nothing in a POSIX expression")
    return re.escape(escaped) if escaped.isascii() else escaped
