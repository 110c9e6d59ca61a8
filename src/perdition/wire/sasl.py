"""SASL mechanisms PLAIN (RFC 4616) and LOGIN, as data: what they say, not how it is carried.

Invariant: a name or password that holds NUL, CR or LF is refused, so that none can end a line of
another protocol.
"""

from __future__ import annotations

import binascii
import re

from perdition.wire.base import Login

MECHANISMS = (b"PLAIN", b"LOGIN")
UNCLEAN = "NUL, CR or LF in the name or password"  # for the log
_FORBIDDEN = re.compile(rb"[\0\r\n]")


def is_clean(value: bytes) -> bool:
    """Whether `value` may be a name or a password."""
    return _FORBIDDEN.search(value) is None


def is_clean_login(login: Login) -> bool:
    """Whether all that a server would hear is clean; the name may be a popmap's."""
    return is_clean(login.authentication_id + login.password + login.authorisation_id)


def from_base64(text: bytes) -> bytes:
    """Decode strictly; ValueError on anything else."""
    if len(text) % 4:  # padding too long is let through by the library
        raise ValueError("not base64")
    return binascii.a2b_base64(text, strict_mode=True) if text else b""


def to_base64(data: bytes) -> bytes:
    """Encode without a line end."""
    return binascii.b2a_base64(data, newline=False)


def read_plain(message: bytes) -> Login:
    """Read ``authzid NUL authcid NUL password``, none empty but the first, or ValueError."""
    parts = message.split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2] or not all(map(is_clean, parts)):
        raise ValueError("not a PLAIN message")
    authorisation_id = b"" if parts[0] == parts[1] else parts[0]
    return Login(parts[1], parts[2], authorisation_id)


def write_plain(login: Login) -> bytes:
    """Return the PLAIN message, in base64."""
    parts = (login.authorisation_id, login.authentication_id, login.password)
    return to_base64(b"\0".join(parts))


class Exchange:
    """The server's half of one authentication: challenges out, responses in, then a `Login`."""

    __slots__ = ("_mechanism", "_user")

    # What LOGIN asks for, by the convention of its clients.
    _USER, _PASSWORD = b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"

    def __init__(self, mechanism: bytes) -> None:
        """Start `mechanism`; ValueError when it is not one of MECHANISMS."""
        if mechanism not in MECHANISMS:
            raise ValueError("unknown mechanism")
        self._mechanism = mechanism
        self._user: bytes | None = None

    def challenge(self) -> bytes:
        """The next challenge, in base64."""
        if self._mechanism == b"PLAIN":
            return b""
        return self._USER if self._user is None else self._PASSWORD

    def respond(self, response: bytes) -> Login | None:
        """Take a response in base64; None when another is to come; ValueError when it's wrong."""
        message = from_base64(response)
        if self._mechanism == b"PLAIN":
            return read_plain(message)
        if not is_clean(message):
            raise ValueError("not a LOGIN message")
        if self._user is None:
            self._user = message
            return None
        return Login(self._user, message)


def shut_out(mechanism: bytes, response: bytes) -> Login:
    """The login of a client that came with its initial response where none is let through."""
    try:
        exchange = Exchange(mechanism)
        login = exchange.respond(response) or Login(exchange._user or b"", b"")
    except ValueError:
        login = Login(b"", b"")
    login.disabled = True
    return login
