"""Text -> value, one function for each kind of option, and `show`, the way back.

Readers open no file and ask no name service. Each returns the typed value or raises ValueError
with a text that names what is wrong, fit to stand behind the option's name.
Invariant: reading what `show` gives for a value gives that value again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from perdition.protocols import PROTOCOLS, SslMode, TlsUse
from perdition.route import Server, parse_server
from perdition.username import STATE_WORDS, AddDomain, State

# syslog(3) facility -> code. ``security`` is the old name of ``auth``.
FACILITIES: dict[str, int] = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6,
    "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17,
    "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip
TLS_VERSIONS = ("sslv3", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3")  # oldest first
MOST = 2_147_483_647
_SWITCH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_NOT_UTF_8 = re.compile("[\ud800-\udfff]")  # what bytes that are no text are decoded to
_QUERY_KEY = re.compile(r"(?:[^\\]|\\[UudDipIP\\])*\\?")
_SHOWN = 60  # of a bad value, characters that a message repeats


def _bad(what: str, text: str) -> ValueError:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return ValueError(f"{what}: {shown!r}")


def text(value: str) -> str:
    """Any text, empty too, but no control characters other than the tab."""
    if _NOT_UTF_8.search(value):
        raise ValueError("not UTF-8")
    if _CONTROL.search(value):
        raise ValueError("control character in the value")
    return value


def some(value: str) -> str:
    """A text that may not be empty."""
    if not value:
        raise ValueError("may not be empty")
    return text(value)


def switch(value: str) -> bool:
    """yes, on, true or no, off, false, whatever the case."""
    if value.lower() not in _SWITCH:
        raise _bad("neither on nor off", value)
    return _SWITCH[value.lower()]


def number(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """Digits only, within bounds; the empty text is 0, as in 2.2."""

    def read(value: str) -> int:
        if value and not (value.isascii() and value.isdigit()):
            raise _bad("not a number", value)
        digits = value.lstrip("0")
        if len(digits) > len(str(most)) or not least <= int(digits or "0") <= most:
            raise _bad(f"not between {least} and {most}", value)
        return int(digits or "0")

    return read


count = number()


def word(*words: str) -> Callable[[str], str]:
    """One of `words`, whatever the case."""

    def read(value: str) -> str:
        if value.lower() not in words:
            raise _bad(f"not one of {', '.join(filter(None, words))}", value)
        return value.lower()

    return read


def protocol_name(value: str) -> str:
    """The name of a protocol, whatever the case."""
    if value.upper() not in PROTOCOLS:
        raise _bad(f"not one of {', '.join(PROTOCOLS)}", value)
    return value.upper()


def port(value: str) -> str:
    """A port's number or services(5) name; empty: the protocol's."""
    if value.isascii() and value.isdigit():
        if len(value) > 5 or int(value) > 65535:
            raise _bad("no such port", value)
    elif not re.fullmatch(r"[\w.+-]*", value, re.ASCII):
        raise _bad("not a port", value)
    return value


def servers(value: str) -> tuple[Server, ...]:
    """``HOST[:PORT],…``; a user part in front of the host is ignored, as in 2.2."""
    found = []
    for each in text(value).split(","):
        server = parse_server(each.rpartition("@")[2])
        if not re.fullmatch(r"[^\s\x00-\x1f\x7f\[\]/]+", server.host):
            raise _bad("not a server", each)
        port(server.port)
        found.append(server)
    return tuple(found)


def numeric_addresses(value: str) -> tuple[str, ...]:
    """``ADDRESS,…``: IP addresses as numbers."""
    found = []
    for each in text(value).split(","):
        try:
            found.append(str(ip_address(each.strip())))
        except ValueError:
            raise _bad("not an IP address", each) from None
    return tuple(found)


def networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """``NETWORK,…``: IP networks, an address alone is one."""
    found = []
    for each in text(value).split(","):
        try:
            found.append(ip_network(each.strip()))
        except ValueError:
            raise _bad("not a network", each) from None
    return tuple(found)


def fingerprints(value: str) -> tuple[str, ...]:
    """``SHA256,…`` in hexadecimal, upper or lower case, with or without colons."""
    found = [each.strip().replace(":", "").lower() for each in value.split(",")]
    for each in found:
        if not re.fullmatch("[0-9a-f]{64}", each):
            raise _bad("not a SHA-256 in hexadecimal", each)
    return tuple(found)


def states(value: str) -> State:
    """``STATE,…``: where something is done to the user's name."""
    found = State.NONE
    for each in value.split(","):
        if each.lower() not in STATE_WORDS:
            raise _bad("unknown state", each)
        found |= STATE_WORDS[each.lower()]
    return found


def domain_states(value: str) -> AddDomain:
    """``STATE,…`` with numbers among them; the last number is how many labels are cut off."""
    depths = [each for each in value.split(",") if each.isascii() and each.isdigit()]
    words = [each for each in value.split(",") if each not in depths]
    return AddDomain(
        states(",".join(words)) if words else State.NONE,
        number(0, 127)(depths[-1]) if depths else AddDomain().depth,
    )


def tls_legs(value: str) -> SslMode:
    """``MODE,…``: the words of the listening and the outgoing leg, or-ed as 2.2 does."""
    legs: dict[str, set[TlsUse]] = {"listen": set(), "outgoing": set()}
    for each in value.split(","):
        if each.lower() not in _MODES:
            raise _bad("unknown mode", each)
        use, names = _MODES[each.lower()]
        for leg in names:
            legs[leg].add(use)
    for leg, uses in legs.items():
        if TlsUse.SSL in uses and len(uses) > 1:
            raise ValueError(f"ssl_{leg} and tls_{leg} exclude each other")
    return SslMode(*(_strictest(uses) for uses in legs.values()))


def _strictest(uses: set[TlsUse]) -> TlsUse:
    for use in (TlsUse.TLS_FORCE, TlsUse.TLS, TlsUse.SSL):
        if use in uses:
            return use
    return TlsUse.NONE


_LEGS = {"listen": ("listen",), "outgoing": ("outgoing",), "all": ("listen", "outgoing")}
_MODES: dict[str, tuple[TlsUse, tuple[str, ...]]] = {
    "none": (TlsUse.NONE, ()),
    **{f"ssl_{name}": (TlsUse.SSL, legs) for name, legs in _LEGS.items()},
    **{f"tls_{name}": (TlsUse.TLS, legs) for name, legs in _LEGS.items()},
    **{f"tls_{name}_force": (TlsUse.TLS_FORCE, legs) for name, legs in _LEGS.items()},
}


def facility(value: str) -> str:
    """A syslog facility, a file from ``/``, ``-…`` for stdout or ``+…`` for stderr."""
    if text(value)[:1] in ("/", "-", "+") and value:
        return value
    if value.lower() not in FACILITIES:
        raise _bad("neither a syslog facility nor /FILE, - or +", value)
    return value.lower()


def absolute(value: str) -> str:
    """A file named from ``/``, or empty for none."""
    if value and not value.startswith("/"):
        raise _bad("must start with /", value)
    return text(value)


def path_or_none(value: str) -> str:
    """A file named from ``/``, the word none, or empty for the default."""
    return "none" if value.lower() == "none" else absolute(value)


def local_listener(value: str) -> str:
    """``ADDRESS:PORT`` of the loopback, ``/SOCKET``, or empty for nothing."""
    if not value or value.startswith("/"):
        return text(value)
    host, number_of_port = parse_server(text(value))
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise _bad("neither an address of the loopback nor a /SOCKET", value)
    number(1, 65535)(number_of_port)
    return value


def query_keys(value: str) -> tuple[str, ...]:
    r"""``FORMAT,…`` with the escapes \U \u \d \D \i \p \I \P \\; a last lone \ is let pass."""
    for each in some(value).split(","):
        if not _QUERY_KEY.fullmatch(each):
            raise _bad(r"an escape other than \U \u \d \D \i \p \I \P \\ in", each)
    return tuple(value.split(","))


def show(value: object) -> str:
    """Write a value as it would be given."""
    match value:
        case bool():
            return "on" if value else "off"
        case State():
            named = [name for name in _STATE_NAMES if STATE_WORDS[name] in value]
            return "all" if value == State.ALL else ",".join(named)
        case AddDomain():
            depth = str(value.depth) if value.depth != AddDomain().depth else ""
            return ",".join(filter(None, (show(value.states), depth)))
        case SslMode():
            return ",".join(_mode_words(value)) or "none"
        case tuple():
            return ",".join(map(str, value))
        case None:
            return ""
    return str(value)


_STATE_NAMES = ("servername_lookup", "local_authentication", "remote_login")


def _mode_words(mode: SslMode) -> list[str]:
    both = mode.listen is mode.outgoing
    legs = {"all": mode.listen} if both else {"listen": mode.listen, "outgoing": mode.outgoing}
    return [
        f"tls_{leg}_force" if use is TlsUse.TLS_FORCE else f"{use.value}_{leg}"
        for leg, use in legs.items()
        if use is not TlsUse.NONE
    ]
