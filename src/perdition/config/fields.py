"""How one option is declared: `opt` and `flag` make a dataclass field that carries an `Option`.

Knows no option and no protocol. Invariant: everything that the command line, the file, the manual
and the dump need to know of an option stands in its `Option`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, NamedTuple, TypeVar

from perdition.config.readers import switch

T = TypeVar("T")


class Option(NamedTuple):
    """One option as its field declares it."""

    default: Any
    read: Callable[[str], Any]  # ValueError, with a plain text, on what can't be used
    help: str
    short: str = ""
    meta: str = ""  # what stands for the value in the manual; empty: a flag
    initial: str = ""  # the default in words, where it depends on other things
    example: str = ""  # a value for the sample configuration file
    since: str = ""  # the version that brought it; empty: Perdition 2.2 had it
    sets: tuple[str, ...] = ()  # the options that it gives its value to
    alias: str = ""  # an old second name
    adds: bool = False  # a repeated option adds to what the same source said before
    path: bool = False  # names a file: a relative name is taken from the starting directory
    secret: bool = False  # may hold a password: never shown
    argv_only: bool = False  # ignored in a configuration file
    obsolete: str = ""  # why it has no effect any more
    name: str = ""  # the field's, filled in by `options_of`

    @property
    def is_flag(self) -> bool:
        return not self.meta


class Setting(NamedTuple):
    """An option as one source gives it."""

    place: str  # ``--timeout`` or ``FILE:12: timeout``, for messages
    option: Option
    text: str | None  # None: a flag without a value


def opt(default: T, read: Callable[[str], T], help: str, *, meta: str, **marks: Any) -> T:
    """Declare an option that takes a value; `marks` are fields of `Option`."""
    option = Option(default, read, help, meta=meta, **marks)
    declared: T = field(default=default, metadata={"option": option}, repr=not option.secret)
    return declared


def flag(help: str, **marks: Any) -> bool:
    """Declare an option that is on or off; `marks` are fields of `Option`."""
    option = Option(False, switch, help, **marks)
    declared: bool = field(default=False, metadata={"option": option})
    return declared


def options_of(table: Any) -> tuple[Option, ...]:
    """The options that a dataclass declares, without those that it inherits, by name."""
    own = [each for each in fields(table) if each.name in table.__annotations__]
    options = [each.metadata["option"]._replace(name=each.name) for each in own if each.metadata]
    return tuple(sorted(options, key=lambda option: option.name))
