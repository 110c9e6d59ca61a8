"""The command line's grammar, as popt had it in Perdition 2.2: words -> settings.

Known are ``--timeout 7``, ``--timeout=7``, ``-t 7``, ``-t7``, ``-t=7``, bundles such as ``-Bnt7``,
and ``--`` as the end. Refused are abbreviations, a flag with a value, and any other word.
No value is read here.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdition.config.fields import Setting
from perdition.config.options import LETTERS, LONG_NAMES, unknown


def parse(argv: list[str]) -> Iterator[Setting | str]:
    """What the words behind the command's name set, and what is wrong with them, in order."""
    words = iter(argv)
    for word in words:
        try:
            if word == "--":
                yield from map(_stray, words)
            elif word.startswith("--"):
                yield _long(word, words)
            elif word.startswith("-") and word != "-":
                yield from _bundle(word, words)
            else:
                yield _stray(word)
        except ValueError as error:
            yield str(error)


def _stray(word: str) -> str:
    return f"{word}: neither an option nor the value of one"


def _value(place: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise ValueError(f"{place}: missing value")
    return value


def _long(word: str, words: Iterator[str]) -> Setting:
    place, equals, value = word.partition("=")
    option = LONG_NAMES.get(place[2:])
    if option is None:
        raise ValueError(f"{place}: {unknown(place, '--')}")
    if option.is_flag:
        if equals:
            raise ValueError(f"{place}: takes no value")
        return Setting(place, option, None)
    return Setting(place, option, value if equals else _value(place, words))


def _bundle(word: str, words: Iterator[str]) -> Iterator[Setting]:
    """Read one word of letters; the first that takes a value takes the rest of the word."""
    for at, letter in enumerate(word[1:], 2):
        place = f"-{letter}"
        option = LETTERS.get(letter)
        if option is None:
            raise ValueError(f"{place}: {'takes no value' if letter == '=' else 'unknown option'}")
        if not option.is_flag:
            rest = word[at:]
            yield Setting(place, option, rest.removeprefix("=") if rest else _value(place, words))
            return
        yield Setting(place, option, None)
