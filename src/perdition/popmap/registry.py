"""THE table of popmaps: a kind's name, where it is, and 2.2's names of its library.

To add one: a file in this folder, a row here. Programs outside add theirs under the entry-point
group ``perdition.popmap``: its name is the kind, its object a class made like
`perdition.popmap.base.Popmap`. A map is imported when it is chosen, so that only it needs its
driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from perdition.errors import MapError
from perdition.popmap.base import Popmap

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "perdition.popmap"


class Kind(NamedTuple):
    """One kind of map."""

    module: str
    driver: str = ""  # what to install when an import fails: pip's extra and Debian's package


KINDS: dict[str, Kind] = {
    "bdb": Kind("bdb"),
    "cdb": Kind("cdb"),
    "command": Kind("command"),
    "daemon": Kind("daemon"),
    "gdbm": Kind("gdbm", "libgdbm (Debian: libgdbm6)"),
    "http": Kind("http"),
    "ldap": Kind("ldap", "python-ldap (perdition[ldap]; Debian: python3-ldap)"),
    "mysql": Kind("mysql", "PyMySQL (perdition[mysql]; Debian: python3-pymysql)"),
    "nis": Kind("nis", "ypmatch (Debian: yp-tools)"),
    "odbc": Kind("odbc", "pyodbc (perdition[odbc]; Debian: python3-pyodbc)"),
    "popmap": Kind("flat"),
    "posix_regex": Kind("regex", "google-re2 (perdition[regex]) or the GNU C library"),
    "postgresql": Kind("postgresql", "psycopg (perdition[postgresql]; Debian: python3-psycopg)"),
    "redis": Kind("redis", "redis (perdition[redis]; Debian: python3-redis)"),
    "sqlite": Kind("sqlite"),
    "tcp": Kind("tcp"),
}
_ALIASES = {"regex": "posix_regex", "pgsql": "postgresql", "flat": "popmap", "valkey": "redis"}


def kind_of(spelling: str) -> str:
    """The kind that ``map_library`` names: a plain name, or a library of 2.2's in any folder."""
    base = spelling.rpartition("/")[2]
    library = re.fullmatch(r"libperditiondb_(\w+?)\.so[\d.]*", base)
    name = (library[1] if library else spelling).lower()
    return _ALIASES.get(name, name)


def kinds() -> list[str]:
    """All names that ``map_library`` takes."""
    return sorted({*KINDS, *(each.name for each in _entry_points())})


def _entry_points() -> Iterable[EntryPoint]:
    """What other packages offer; finding that out costs a start more than all our maps."""
    from importlib.metadata import entry_points  # noqa: PLC0415

    return entry_points(group=ENTRY_POINTS)


def map_class(spelling: str) -> type[Popmap]:
    """Return the class that ``map_library`` names; MapError says what is missing."""
    name = kind_of(spelling)
    kind = KINDS.get(name)
    if kind is None:
        for entry in _entry_points():
            if entry.name != name:
                continue
            found = entry.load()
            assert isinstance(found, type)
            return found
        raise MapError(f"unknown map {spelling!r}; known: {', '.join(kinds())}")
    try:
        module = import_module(f"perdition.popmap.{kind.module}")
    except ImportError as error:
        raise MapError(f"the {name} map needs {kind.driver or name}: {error}") from None
    chosen: type[Popmap] = module.Map
    return chosen


def make(spelling: str, option: str) -> Popmap:
    """Make the map that the options name and let it read what it keeps in memory."""
    popmap = map_class(spelling)(option)
    popmap.open()
    return popmap
