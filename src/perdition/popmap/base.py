"""What every popmap is: options in a string, a query in, a route or nothing out.

A map answers `lookup` synchronously. One that may wait for somebody else (``waits``) is asked in
threads, each with an object of its own made from the same option string; one that never does is
asked in the session's own step. Maps import neither each other nor sessions, options or grammars.
Invariant: a map that can't tell raises `MapError`; None means that it knows no such user.
"""

from __future__ import annotations

import os
import re
import select
import socket
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from perdition.errors import MapError
from perdition.route import Route, Server, parse_server

Address = tuple[str, int]  # host as a number, port
Mark = tuple[int, ...]  # tells a file from what it was before

KEY_LIMIT = 1024  # bytes; no user name is longer (RFC 5321 allows 320)
_PORT_ALONE = re.compile(r":[^:]*")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[^\s\x00-\x1f\x7f\[\]/@]+")


class Query(NamedTuple):
    """What is looked up, and for whom."""

    key: bytes
    delimiter: bytes = b"@"  # between user and domain, in names and in a map's values
    client: Address | None = None
    local: Address | None = None  # the address that the client reached
    protocol: str = ""  # services(5) name of what the client speaks


class Stale(Exception):
    """What a map holds in memory is older than its file: `refresh` it, then ask again."""


class Popmap(ABC):
    """One kind of map; see the module."""

    waits: ClassVar[bool] = False  # whether a look-up may wait for somebody else
    uses_addresses: ClassVar[bool] = False  # whether an answer may depend on more than the key

    @abstractmethod
    def __init__(self, option: str) -> None:
        """Read ``map_library_opt``; connect to nothing. MapError when it can't be used."""

    def open(self) -> None:  # noqa: B027 - most maps have nothing to do
        """Read what is kept in memory; MapError stops the daemon's start or the reload."""

    def refresh(self) -> None:  # noqa: B027
        """Read anew what has changed (in a thread); MapError leaves the old in force."""

    @abstractmethod
    def lookup(self, query: Query) -> Route | None:
        """Return the route for ``query.key``; None when there is no such user.

        Raises MapError when the map can't tell, Stale when it has to read its file first.
        """

    def close(self) -> None:  # noqa: B027
        """Give back connections and descriptors; the map is asked no more."""


def mark_of(stat: os.stat_result) -> Mark:
    """What changes whenever a file is replaced or written, be it as long as before."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def is_ready(source: int | socket.socket, seconds: float, events: int = select.POLLIN) -> bool:
    """Wait for a descriptor, any number of it: select(2) takes none above 1023."""
    poll = select.poll()
    poll.register(source, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def text_key(query: Query) -> str | None:
    """The key for a service whose keys are UTF-8 texts; None: it can't know such a user."""
    if len(query.key) > KEY_LIMIT or b"\0" in query.key:
        return None
    try:
        return query.key.decode()
    except UnicodeDecodeError:
        return None


def route_of(value: bytes, delimiter: bytes = b"@") -> Route:
    """Read a map's value: ``[user<delimiter>]host[:port][,host[:port]...]``.

    Split at the last delimiter, as 2.2 does; several servers are tried in the order given. A value
    without a host gives a route without servers, which means the default servers. Raises
    MapError on what is no server.
    """
    before, found, hosts = value.rpartition(delimiter)
    _check_user(before)
    servers = []
    for each in hosts.decode("utf-8", "surrogateescape").split(","):
        if each.strip() and not _PORT_ALONE.fullmatch(each):
            servers.append(checked_server(each))
    return Route(tuple(servers), before if found else b"")


def route_from(user: bytes, host: str, port: str, delimiter: bytes = b"@") -> Route:
    """Make a route of separate columns; a host that carries more is read as a value."""
    _check_user(user)
    if not host:
        return Route((), user)
    if not port or "," in host:
        route = route_of(host.encode("utf-8", "surrogateescape"), delimiter)
        return route if route.user or not user else route._replace(user=user)
    return Route((checked_server(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),), user)


def _check_user(user: bytes) -> None:
    """MapError for a name that would end a line of what is said to a server."""
    if user and _CONTROL.search(user):
        raise MapError("the map's value has control characters in the user's name")


def checked_server(text: str) -> Server:
    """Read one server; MapError when a name or port is none."""
    try:
        server = parse_server(text)
    except ValueError as error:
        raise MapError(f"the map's value is no server: {error}") from None
    port = server.port
    if not _HOST.fullmatch(server.host) or not re.fullmatch(r"[\w.+-]*", port, re.ASCII):
        raise MapError(f"the map's value is no server: {text!r}")
    if port.isdigit() and (len(port) > 5 or not 0 < int(port) < 65536):
        raise MapError(f"the map's value has no such port: {text!r}")
    return server
