r"""Regular expressions, ``EXPRESSION SERVER`` a line, the first that matches wins.

As 2.2's posix_regex: extended, case-sensitive, not anchored; the answer is what stands before the
match and then the server with ``$0`` to ``$9`` replaced, what stands behind the match is dropped.
The engine is RE2, which takes time in proportion to the key, whatever the expression: there are no
back-references (``\1``). All expressions are tried at once: ten thousand that begin with literal
text cost little more than one, with ``.*`` in their middle they cost milliseconds.
Words are quoted as in the configuration file.
"""

from __future__ import annotations

import re
from typing import Any

import re2

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Query, route_of
from perdition.popmap.watched import WatchedFile
from perdition.route import Route
from perdition.words import lines

_MEMORY = 1 << 29  # bytes that all expressions together may take
_DOLLAR = re.compile(rb"\$([0-9])")


def _options() -> Any:
    options = re2.Options()
    options.posix_syntax = True
    options.longest_match = True
    options.perl_classes = options.word_boundary = True  # \w and \b, as glibc has them
    options.one_line = True
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are
    options.max_mem = _MEMORY
    return options


class Map(WatchedFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.re"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._all: Any = None  # finds which expressions match
        self._rules: list[tuple[Any, bytes]] = []  # expression, answer

    def lookup(self, query: Query) -> Route | None:
        self._check()
        key = query.key
        if len(key) > KEY_LIMIT or not self._rules:
            return None
        matching = self._all.Match(key)
        if not matching:
            return None
        expression, answer = self._rules[min(matching)]
        found = expression.search(key)
        groups = (found[0], *found.groups())

        def group(dollar: re.Match[bytes]) -> bytes:
            number = int(dollar[1])
            return (groups[number] or b"") if number < len(groups) else b""

        return route_of(key[: found.start()] + _DOLLAR.sub(group, answer), query.delimiter)

    def _read(self, content: bytes) -> None:
        options = _options()
        together = re2.Set.SearchSet(options)
        rules = []
        for number, words in lines(content.decode("latin-1")):
            if words is None:
                raise MapError(f"{self.path}:{number}: a quote is opened and never closed")
            if len(words) < 2:
                raise MapError(f"{self.path}:{number}: an expression without a server")
            expression = words[0].removesuffix(":").encode("latin-1")
            try:
                rules.append((re2.compile(expression, options), words[1].encode("latin-1")))
                together.Add(expression)
            except re2.error as error:
                why = error.args[0] if error.args else "not understood"
                text = why.decode("latin-1") if isinstance(why, bytes) else why
                raise MapError(f"{self.path}:{number}: {text}") from None
        if rules:
            try:
                together.Compile()
            except re2.error:
                raise MapError(f"{self.path}: the expressions take too much memory") from None
        self._all, self._rules = together, rules
