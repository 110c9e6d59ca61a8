"""What IMAP can tell at a glance, because it is said in the same words again and again.

    C: a LOGIN "user" "secret"              a tag, the user, the password
    S: * OK [CAPABILITY …] ready            what is said to whoever greets so
    S: flim07 OK Logged in                  what is made of it

Nothing is understood here that `Front` and `Back` would not understand alike: what a server says
is shown to a `Back` the first time, and what that makes of it is remembered. Whatever is longer,
or less usual, is left to them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from perdition.errors import WireError
from perdition.wire.base import Accepted, BackTerms, FrontTerms, Login, Origin
from perdition.wire.imap4 import TAG, greeting, reply
from perdition.wire.imap4_back import TAGS, Back, id_command, login_command

__all__ = ["greeting", "is_plain", "login", "opening", "reply", "verdict", "wants_origin"]

# Without a backslash, or anything else that would have to be quoted for the server.
_CHARS = rb"[ !#-\[\]-~]*"
_VALUE = rb' (?:"(' + _CHARS + rb')"|([!#$&\'+-\[\]-z|~]+))'
_LOGIN = re.compile(rb"(" + TAG + rb") (?i:LOGIN)" + 2 * _VALUE + rb"\r?\n")
_PLAIN = re.compile(_CHARS)
_FIRST, _SECOND = TAGS[:2]

# With whose login a `Back` is shown the words of a server.
_USER = Login(b"user", b"password")
_ORIGIN = Origin(("192.0.2.1", 1), ("192.0.2.2", 2), "session")


def login(data: bytes, terms: FrontTerms) -> tuple[bytes, Login] | None:
    """The tag and the credentials, if `data` is a login and nothing else."""
    match = _LOGIN.fullmatch(data)
    if match is None or len(data) > terms.line_limit:
        return None
    tag, quoted_user, user, quoted_password, password = match.groups()
    return tag, Login(
        user if quoted_user is None else quoted_user,
        password if quoted_password is None else quoted_password,
    )


def is_plain(user: Login) -> bool:
    """Whether it can be said to a server as it stands."""
    return (
        not user.authorisation_id
        and not user.disabled
        and _PLAIN.fullmatch(user.authentication_id + user.password) is not None
    )


@lru_cache(maxsize=64)
def wants_origin(greeted: bytes, terms: BackTerms, is_known: bool) -> bool | None:
    """Whether a server that greets like this hears who the client is, if that is known."""
    back = Back(_USER, terms, origin=_ORIGIN if is_known else None)
    try:
        if back.receive(greeted) is not None or back.unread():
            return None
    except WireError:
        return None
    return {opening(_USER, _ORIGIN): True, opening(_USER, None): False}.get(back.take())


def opening(user: Login, origin: Origin | None) -> bytes:
    """The usual beginning of a login."""
    if origin is None:
        return login_command(_FIRST, user.authentication_id, user.password)
    return id_command(_FIRST, origin) + login_command(
        _SECOND, user.authentication_id, user.password
    )


@lru_cache(maxsize=256)
def verdict(heard: bytes, terms: BackTerms, is_known: bool) -> Accepted | bool:
    """What a server has said so far, its greeting first, means.

    True: more is to come; False: nothing usual.
    """
    back = Back(_USER, terms, origin=_ORIGIN if is_known else None)
    try:
        outcome = back.receive(heard)
    except WireError:
        return False
    if outcome is None:
        return back.take() in (opening(_USER, _ORIGIN), opening(_USER, None))
    return outcome if isinstance(outcome, Accepted) and not back.unread() else False
