"""Reverse names of the addresses that clients reach, each asked of the resolver once.

There are as many as the machine has addresses. Invariant: nothing here blocks.
"""

from __future__ import annotations

import asyncio
import socket


class ReverseNames:
    """Addresses to names; an address without one has the empty name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[str, str] = {}

    def known(self, address: str) -> str | None:
        """The name of `address`, empty if it has none; None: `ask` has to be awaited."""
        return self._known.get(address)

    async def ask(self, address: str) -> None:
        """Ask the resolver."""
        flags = socket.NI_NUMERICSERV | socket.NI_NAMEREQD
        try:
            host, _ = await self._loop.getnameinfo((address, 0), flags)
        except OSError:
            host = ""
        self._known[address] = host
