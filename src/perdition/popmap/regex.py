r"""Regular expressions, ``EXPRESSION SERVER`` a line, the first that matches wins.

As 2.2's posix_regex: extended, case-sensitive, not anchored; the answer is what stands before the
match and then the server with ``$0`` to ``$9`` replaced, what stands behind the match is dropped.
The engine is RE2 where that is installed, else the C library's own, as in 2.2; neither has
back-references (``\1``), so that no name can stop the service.
Words are quoted as in the configuration file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Query, route_of
from perdition.popmap.regex_rules import Rule
from perdition.popmap.watched import WatchedFile
from perdition.route import Route
from perdition.words import lines

_DOLLAR = re.compile(rb"\$([0-9])")


def _engine() -> Any:
    """The module that compiles expressions; ImportError where there is none."""
    try:
        return import_module("perdition.popmap.regex_re2")
    except ImportError:
        return import_module("perdition.popmap.regex_libc")


engine = _engine()


class Map(WatchedFile):
    """``map_library_opt``: the file's path."""

    DEFAULT = "/etc/perdition/popmap.re"

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self._rules: list[Any] = []  # in the file's order

    def lookup(self, query: Query) -> Route | None:
        self._check()
        key = query.key
        if len(key) > KEY_LIMIT:
            return None
        for rules in self._rules:
            if (found := rules.first(key)) is not None:
                break
        else:
            return None
        groups = found.groups

        def group(dollar: re.Match[bytes]) -> bytes:
            number = int(dollar[1])
            return groups[number] if number < len(groups) else b""

        return route_of(key[: found.start] + _DOLLAR.sub(group, found.answer), query.delimiter)

    def _read(self, content: bytes) -> None:
        rules = list(self._parsed(content))
        try:
            self._rules = engine.compiled(rules)
        except MapError as error:
            raise MapError(f"{self.path}:{error}") from None

    def _parsed(self, content: bytes) -> Iterator[Rule]:
        for number, words in lines(content.decode("latin-1")):
            if words is None:
                raise MapError(f"{self.path}:{number}: a quote is opened and never closed")
            if len(words) < 2:
                raise MapError(f"{self.path}:{number}: an expression without a server")
            try:
                expression = engine.checked(words[0].removesuffix(":").encode("latin-1"))
            except ValueError as error:
                raise MapError(f"{self.path}:{number}: {error}") from None
            yield Rule(number, expression, words[1].encode("latin-1"))
