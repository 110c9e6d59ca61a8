"""Listening sockets: which addresses, one SO_REUSEPORT socket a worker for each of them.

The master keeps every socket open, so that the successor of a worker that died inherits its queue.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from perdition.config import Config
from perdition.errors import StartError
from perdition.route import Server


class Address(NamedTuple):
    """An address to listen on."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    def __str__(self) -> str:
        host, port = self.sockaddr[0], self.sockaddr[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(options: Config) -> list[Address]:
    """Resolve ``bind_address``: all addresses of each name; both families when it is not given."""
    if not options.bind_address:
        family = socket.AF_INET6 if _has_ipv6() else socket.AF_INET
        host = "::" if family == socket.AF_INET6 else "0.0.0.0"
        return _resolve(Server(host, options.listen_port))
    found: dict[Address, None] = {}
    for server in options.bind_address:
        named = Server(server.host, server.port or options.listen_port)
        found.update(dict.fromkeys(_resolve(named)))
    return list(found)


def _resolve(server: Server) -> list[Address]:
    try:
        answers = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        unknown = error.errno == socket.EAI_SERVICE
        why = f"no such port: {server.port!r}" if unknown else error.strerror
        raise StartError(
            f"Fatal error listening for connections. Exiting. ({server}: {why})"
        ) from None
    return [Address(int(a[0]), a[4]) for a in answers]  # type: ignore[arg-type]


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


class Listeners:
    """All listening sockets of a daemon; `sockets(n)` are those of worker number n."""

    def __init__(self, handed_over: Iterable[tuple[int, list[Any], list[int]]] = ()) -> None:
        self._bound: dict[Address, list[socket.socket]] = {}
        for family, sockaddr, fds in handed_over:
            sockets = [socket.socket(fileno=fd) for fd in fds]
            for sock in sockets:
                sock.setblocking(False)
            self._bound[Address(family, tuple(sockaddr))] = sockets

    def handed_over(self, keep: Callable[[int], int]) -> list[tuple[int, list[Any], list[int]]]:
        """What a successor of this process makes the same of; `keep` is told each descriptor."""
        return [
            (address.family, list(address.sockaddr), [keep(sock.fileno()) for sock in sockets])
            for address, sockets in self._bound.items()
        ]

    def adapt(self, options: Config, workers: int) -> Listeners:
        """Return the sockets that `options` asks for, taking over those that stay.

        StartError leaves this object as it was; so a reload can fail and nothing is lost.
        """
        new = Listeners()
        opened: list[socket.socket] = []
        try:
            wanted = addresses(options)
            alone = not any(a.family == socket.AF_INET for a in wanted)
            for address in wanted:
                kept = self._bound.get(address, [])[:workers]
                if not kept and address.sockaddr[1]:
                    _bind(address, options, share=False, dual=alone).close()
                fresh = []
                for _ in range(workers - len(kept)):
                    fresh.append(_bind(address, options, share=True, dual=alone))
                    opened.append(fresh[-1])
                new._bound[address] = kept + fresh
        except StartError:
            for sock in opened:
                sock.close()
            raise
        for sock in new.all():
            sock.listen(options.listen_backlog)
        return new

    def close_all_but(self, kept: Listeners) -> None:
        """Close what `kept` has not taken over."""
        stay = {id(sock) for sock in kept.all()}
        for sock in self.all():
            if id(sock) not in stay:
                sock.close()

    def close(self) -> None:
        """Close all."""
        self.close_all_but(Listeners())

    def sockets(self, number: int) -> list[socket.socket]:
        """The sockets that worker `number` accepts from."""
        return [socks[number] for socks in self._bound.values()]

    def all(self) -> list[socket.socket]:
        """Every socket."""
        return [sock for socks in self._bound.values() for sock in socks]

    def __str__(self) -> str:
        return ", ".join(str(address) for address in self._bound)


def _bind(address: Address, options: Config, *, share: bool, dual: bool) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        # Accepted sockets inherit both.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.tcp_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(address.sockaddr)
        if not share:
            sock.listen(1)  # two binds may succeed where only one may listen
    except OSError as error:
        sock.close()
        why = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise StartError(
            f"Fatal error listening for connections. Exiting. ({address}: {why})"
        ) from None
    return sock
