r"""Regular expressions, ``EXPRESSION SERVER`` a line, the first that matches wins.

As 2.2's posix_regex: extended, case-sensitive, not anchored; the answer is what stands before the
match and then the server with ``$0`` to ``$9`` replaced, what stands behind the match is dropped.
The engine is RE2, which takes time in proportion to the key, whatever the expression: there are no
back-references (``\1``). The literal parts of all expressions are looked for at once, and only
those whose parts are there are tried: ten thousand cost little more than one.
Words are quoted as in the configuration file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import re2

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Query, route_of
from perdition.popmap.watched import WatchedFile
from perdition.route import Route
from perdition.words import lines

_TOGETHER = 2000  # expressions whose literal parts are looked for at once
_DOLLAR = re.compile(rb"\$([0-9])")

# POSIX syntax with the extensions of the GNU C library, piece by piece.
_PIECE = re.compile(
    rb"""
      (?P<class> \[ \^? \]? (?: \[:[^]]*:\] | \[\.[^]]*\.\] | \[=[^]]*=\] | [^]] )* \] )
    | \\ (?P<escaped> . )
    | (?P<atmost> \{ (?=,\d) )
    | (?P<plain> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SAME = b"wWsSbB"  # escapes that mean the same in RE2
_ENDS = {b"`": b"^", b"'": b"$"}
_WORD = re.compile(rb"\w")


class Rule(NamedTuple):
    """A line of the file."""

    number: int
    expression: bytes  # in the spelling of RE2
    answer: bytes


class Rules:
    """Some of the file's rules."""

    def __init__(self, rules: list[Rule]) -> None:
        """Compile them; re2.error when their literal parts are too much for one search."""
        options = _options()
        self._answers = [rule.answer for rule in rules]
        self._filter = re2.Filter()
        for rule in rules:
            self._filter.Add(rule.expression, options)
        self._filter.Compile()

    def first(self, key: bytes) -> tuple[Any, bytes] | None:
        """The first expression that matches, and its answer."""
        matching = self._filter.Match(key)
        if not matching:
            return None
        number = min(matching)
        return self._filter.re(number), self._answers[number]


class Map(WatchedFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.re"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._rules: list[Rules] = []  # in the file's order

    def lookup(self, query: Query) -> Route | None:
        self._check()
        key = query.key
        if len(key) > KEY_LIMIT:
            return None
        for rules in self._rules:
            if (first := rules.first(key)) is not None:
                break
        else:
            return None
        expression, answer = first
        found = expression.search(key)
        groups = (found[0], *found.groups())

        def group(dollar: re.Match[bytes]) -> bytes:
            number = int(dollar[1])
            return (groups[number] or b"") if number < len(groups) else b""

        return route_of(key[: found.start()] + _DOLLAR.sub(group, answer), query.delimiter)

    def _read(self, content: bytes) -> None:
        rules = list(self._parsed(content))
        parts = (rules[at : at + _TOGETHER] for at in range(0, len(rules), _TOGETHER))
        self._rules = [each for part in parts for each in self._compiled(part)]

    def _parsed(self, content: bytes) -> Iterator[Rule]:
        options = _options()
        for number, words in lines(content.decode("latin-1")):
            if words is None:
                raise MapError(f"{self.path}:{number}: a quote is opened and never closed")
            if len(words) < 2:
                raise MapError(f"{self.path}:{number}: an expression without a server")
            try:
                expression = translated(words[0].removesuffix(":").encode("latin-1"))
                re2.compile(expression, options)
            except (ValueError, re2.error) as error:
                why = error.args[0] if error.args else "not understood"
                text = why.decode("latin-1") if isinstance(why, bytes) else why
                raise MapError(f"{self.path}:{number}: {text}") from None
            yield Rule(number, expression, words[1].encode("latin-1"))

    def _compiled(self, rules: list[Rule]) -> Iterator[Rules]:
        """The rules in as few parts as possible."""
        try:
            yield Rules(rules)
        except re2.error:
            if len(rules) == 1:
                raise MapError(f"{self.path}:{rules[0].number}: takes too much memory") from None
            half = len(rules) // 2
            yield from self._compiled(rules[:half])
            yield from self._compiled(rules[half:])


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
    pieces = list(_PIECE.finditer(expression))
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
