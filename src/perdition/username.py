"""User names: strip and add domains, lower case, per state; query keys. Pure, on bytes.

Source: the behaviour of Perdition 2.2 (section 6 of its description).
"""

from __future__ import annotations

import re
from enum import Flag
from typing import NamedTuple


class State(Flag):
    """The uses of a user name that options tell apart."""

    NONE = 0
    SERVERNAME_LOOKUP = 1
    LOCAL_AUTHENTICATION = 2
    REMOTE_LOGIN = 4
    ALL = 7


class AddDomain(NamedTuple):
    """The value of ``add_domain``: in which states, and how many leading labels are cut off."""

    states: State = State.NONE
    depth: int = 1


# The words of the options, 2.2's aliases included.
STATE_WORDS: dict[str, State] = {
    "servername_lookup": State.SERVERNAME_LOOKUP,
    "server_lookup": State.SERVERNAME_LOOKUP,
    "local_authentication": State.LOCAL_AUTHENTICATION,
    "local_auth": State.LOCAL_AUTHENTICATION,
    "remote_login": State.REMOTE_LOGIN,
    "all": State.ALL,
}


class NameRules(NamedTuple):
    """The options that change a user name; see `mangle`."""

    delimiter: bytes = b"@"
    strip: State = State.NONE
    add: AddDomain = AddDomain()
    lower: State = State.NONE
    domain: bytes = b""  # ``explicit_domain``; empty: the reverse name of the address reached

    @property
    def changes(self) -> bool:
        """Whether any name may come out otherwise than it went in."""
        return bool(self.strip | self.add.states | self.lower)

    @property
    def wants_reached(self) -> bool:
        """Whether `mangle` needs to know the name of the address that the client reached."""
        return bool(self.add.states) and not self.domain


def mangle(name: bytes, state: State, rules: NameRules, reached: bytes = b"") -> bytes:
    """Return `name` as it is used in `state`: strip, then add, then lower case.

    `reached` is the reverse name of the address the client connected to, empty if it has none;
    then nothing is added. Only ASCII is lower-cased.
    """
    if state in rules.strip and rules.delimiter in name:
        name = name[: name.rindex(rules.delimiter)]
    if state in rules.add.states and rules.delimiter not in name:
        domain = rules.domain or parent_domain(reached, rules.add.depth)
        if domain:
            name = name + rules.delimiter + domain
    return name.lower() if state in rules.lower else name


def parent_domain(host: bytes, depth: int) -> bytes:
    """Cut `depth` leading labels off a host name; empty when it has no more than that."""
    labels = host.split(b".")
    return b".".join(labels[depth:])


def query_key(
    form: bytes, key: bytes, delimiter: bytes,
    client: tuple[str, int] | None, local: tuple[str, int] | None,
) -> bytes:  # fmt: skip
    r"""Return what a map is asked for: `form` with its escapes replaced.

    ``\U`` the key, ``\u`` and ``\d`` its parts before and behind the last delimiter, ``\D`` the
    delimiter, ``\i \p`` address and port of the client, ``\I \P`` those that it reached, ``\\``
    a backslash; a lone one at the end is dropped. Source: ``query_key`` of 2.2; with a delimiter of
    several characters ``\d`` is all that stands behind it.
    """
    user, found, domain = key.rpartition(delimiter)
    values = {
        b"U": key,
        b"u": user if found else key,
        b"d": domain if found else b"",
        b"D": delimiter,
        b"i": client[0].encode() if client else b"",
        b"p": b"%d" % client[1] if client else b"",
        b"I": local[0].encode() if local else b"",
        b"P": b"%d" % local[1] if local else b"",
        b"\\": b"\\",
        b"": b"",
    }
    return _ESCAPE.sub(lambda escape: values[escape[1]], form)


_ESCAPE = re.compile(rb"\\([UudDipIP\\]|$)")
