"""Reach the user's server: which servers in which order, their addresses, the connection.

Names are resolved off the loop and remembered; when the resolver is down the last good answer
serves. Round robin as 2.2: a session starts at a server chosen in turn and goes on from there.
Invariant: nothing here blocks.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - getaddrinfo wants it, when its file may be out of reach
import errno
import os
import socket
import time
from collections.abc import Sequence
from functools import partial

from perdition.route import Server

SockAddress = tuple[int, tuple[str, int] | tuple[str, int, int, int]]  # family, address

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python names it from 3.13 on
NAME_LIFETIME = 60.0  # seconds that an answer of the resolver is used without asking again
NAME_PATIENCE = 1.0  # seconds that the resolver has where an older answer can serve
NAME_RETRY = 5.0  # seconds for which it then does
NAMES_KEPT = 4096


class Resolver:
    """Host names to addresses, remembered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._known: dict[Server, tuple[float, tuple[SockAddress, ...]]] = {}
        self._asked: dict[Server, asyncio.Task[tuple[SockAddress, ...]]] = {}

    def known(self, server: Server) -> tuple[SockAddress, ...]:
        """Return the addresses of `server` without waiting; empty: `ask` has to be awaited."""
        found = self._known.get(server)
        if found is None:
            addresses = _numeric(server)
            if addresses:
                self._remember(server, float("inf"), addresses)
            return addresses
        until, addresses = found
        return addresses if until > time.monotonic() else ()

    async def ask(self, server: Server) -> tuple[SockAddress, ...]:
        """Ask the resolver; OSError when it knows no address and none is remembered.

        All who ask for a server wait for one question. Where an older answer can serve nobody waits
        long: names that take the resolver's threads hold up no others.
        """
        asked = self._asked.get(server)
        if asked is None:
            asked = self._asked[server] = asyncio.ensure_future(self._resolve(server))
            asked.add_done_callback(partial(self._answered, server))
        found = self._known.get(server)
        await asyncio.wait({asked}, timeout=None if found is None else NAME_PATIENCE)
        if asked.done() or found is None:
            return asked.result()
        self._remember(server, time.monotonic() + NAME_RETRY, found[1])
        return found[1]

    def _answered(self, server: Server, asked: asyncio.Task[tuple[SockAddress, ...]]) -> None:
        del self._asked[server]
        if not asked.cancelled():
            asked.exception()  # which may concern nobody any more

    async def _resolve(self, server: Server) -> tuple[SockAddress, ...]:
        """What the resolver says, or said when it was last up."""
        try:
            answers = await self.loop.getaddrinfo(
                server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        except (OSError, UnicodeError) as error:  # the latter of a name that is none
            found = self._known.get(server)
            if found is None:
                why = getattr(error, "strerror", None) or "no host name"
                raise OSError(errno.EINVAL, why) from None
            self._remember(server, time.monotonic() + NAME_LIFETIME, found[1])
            return found[1]
        addresses = _addresses(answers)
        self._remember(server, time.monotonic() + NAME_LIFETIME, addresses)
        return addresses

    def prefer(self, server: Server, address: SockAddress) -> None:
        """Put the address that has just answered first, if it was not."""
        found = self._known.get(server)
        if found is not None and found[1][0] != address and address in found[1]:
            rest = tuple(each for each in found[1] if each != address)
            self._known[server] = (found[0], (address, *rest))

    def _remember(self, server: Server, until: float, addresses: tuple[SockAddress, ...]) -> None:
        if len(self._known) >= NAMES_KEPT:
            self._known.clear()
        self._known[server] = (until, addresses)


def _addresses(answers: Sequence[tuple[int, int, int, str, object]]) -> tuple[SockAddress, ...]:
    found: dict[SockAddress, None] = {}
    for family, _, _, _, address in answers:
        found[(int(family), address)] = None  # type: ignore[index]
    return tuple(found)


def _numeric(server: Server) -> tuple[SockAddress, ...]:
    """Addresses of a host given as a number, which needs no resolver; else none."""
    try:
        return _addresses(
            socket.getaddrinfo(
                server.host,
                server.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_NUMERICHOST,
            )
        )
    except (OSError, UnicodeError):  # the latter of a name that is none
        return ()


class Rotation:
    """The default servers, each session starting one further than the last."""

    def __init__(self, servers: tuple[Server, ...], port: str) -> None:
        self.servers = tuple(Server(s.host, s.port or port) for s in servers)
        self._next = int.from_bytes(os.urandom(4), "big") % len(servers) if servers else 0

    def turn(self) -> tuple[Server, ...]:
        """Return all servers in the order in which to try them."""
        if len(self.servers) < 2:
            return self.servers
        start = self._next
        self._next = (start + 1) % len(self.servers)
        return self.servers[start:] + self.servers[:start]


class Sources:
    """The addresses that connections to servers come from, in turn."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._of: dict[int, tuple[str, ...]] = {
            socket.AF_INET: tuple(each for each in addresses if ":" not in each),
            socket.AF_INET6: tuple(each for each in addresses if ":" in each),
        }
        self._turn = 0

    def turn(self, family: int) -> str:
        """Return the next one of that family; empty: none, the kernel chooses."""
        choice = self._of.get(family)
        if not choice:
            return ""
        self._turn += 1
        return choice[self._turn % len(choice)]


def open_socket(
    family: int, sources: Sources | None = None, *, keepalive: bool = False
) -> socket.SocketType:
    """Return a socket to connect from, with one of `sources` where there are some.

    Raises OSError when there is none to be had.
    """
    sock = socket.SocketType(family, _STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sources is not None and (source := sources.turn(family)):
            # The port is chosen at the connect: as many connections as each pair of ends has ports.
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
    except OSError:
        sock.close()
        raise
    return sock


def is_connected(sock: socket.SocketType) -> bool:
    """Whether the connection is there by now."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
