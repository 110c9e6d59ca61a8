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
