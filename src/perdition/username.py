"""User names: strip and add domains, lower case, per state; query keys. Pure, on bytes.

Source: the behaviour of Perdition 2.2 (section 6 of its description).
"""

from __future__ import annotations

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
