"""Where a user's mail lives: servers, and the spellings that name them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple


class Server(NamedTuple):
    """A mail server, or an address to bind; a port is a number, a services(5) name, or unset."""

    host: str
    port: str = ""

    @lru_cache(maxsize=1024)  # a worker writes the same few in each line  # noqa: B019
    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


class Route(NamedTuple):
    """What a popmap answers: servers to try in order, and the name to use there if it gives one."""

    servers: tuple[Server, ...]
    user: bytes = b""


def is_address(host: str) -> bool:
    """Whether a host is called by its number."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_server(text: str) -> Server:
    """Read ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; a bare v6 address is taken whole.

    Raises ValueError when there is no host, or text behind a closing bracket that is no port.
    """
    text = text.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a server: {text!r}")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError(f"no host in {text!r}")
    return Server(host, port)
