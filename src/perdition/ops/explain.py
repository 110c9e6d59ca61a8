"""``--explain USER``: each step from a login name to its servers, and how long each took.

No password is needed and no mail server hears of it, unless ``--probe`` has greetings read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable
from ipaddress import ip_address
from typing import Any

from perdition.config import Config
from perdition.errors import MapError
from perdition.log import text_of
from perdition.ops.tables import plain
from perdition.protocols import TlsUse
from perdition.route import Server, parse_server
from perdition.session.dial import Resolver
from perdition.session.routing import Routing
from perdition.username import State

Address = tuple[str, int]
FAILED = 255  # exit status of a mistake in the words
PROBE = 10.0  # seconds for a connection and a greeting


async def explain(config: Config, routing: Routing, probe: ssl.SSLContext | bool) -> int:
    """Print the route of ``config.explain``; return 0 when there is one, 1 when there is none."""
    name = config.explain.encode("utf-8", "surrogateescape")
    try:
        client = _address(config.explain_client)
        local = _address(config.explain_local)
    except ValueError as error:
        print(f"no address of a client or of ours, such as 192.0.2.1:40000 or [::1]:143: {error}")
        return FAILED
    print(f"user name: {plain(config.explain)}")
    print(f"protocol: {config.protocol}, configuration: {config.config_path or 'none'}")
    print(f"popmap: {config.map_library if routing.lookups else 'none'}")
    before = time.perf_counter()

    def tell(step: str) -> None:
        nonlocal before
        took, before = time.perf_counter() - before, time.perf_counter()
        print(f"{plain(step)} ({took * 1000:.2f} ms)")

    async def wait(driver: Awaitable[Any]) -> Any:
        return await driver

    try:
        servers, user = await routing.find(name, client, local, wait, tell)
    except MapError as error:
        print(f"no route, which the client hears as a trouble that passes: {plain(error)}")
        return 1
    if config.authenticate_in:
        asked = await routing.server_name(user, State.LOCAL_AUTHENTICATION, local, wait)
        print(f"name for local authentication: {text_of(asked)}")
    sent = await routing.server_name(user, State.REMOTE_LOGIN, local, wait)
    if not servers:
        print("no route: the user has no server, and outgoing_server names none")
        return 1
    print("servers, in this order:")
    resolver = Resolver(asyncio.get_running_loop())
    for server in servers:
        print(f"  {server}  {await _reach(resolver, server, config, probe)}")
    print(f"name sent to the server: {text_of(sent)}")
    return 0


async def _reach(
    resolver: Resolver, server: Server, config: Config, probe: ssl.SSLContext | bool
) -> str:
    """The addresses of a server, and what it says when it is asked."""
    try:
        addresses = resolver.known(server) or await resolver.ask(server)
    except OSError as error:
        return f"no address: {error.strerror or error}"
    words = ", ".join(address[0] for _, address in addresses)
    if probe is not False:
        context = probe if isinstance(probe, ssl.SSLContext) else None
        if config.ssl_mode.outgoing is not TlsUse.SSL:
            context = None
        words += f"; {await asyncio.to_thread(_greeting, addresses[0], server.host, context)}"
    return words


def _greeting(address: Any, host: str, context: ssl.SSLContext | None) -> str:
    """Connect, and return the first line that the server says, or what went wrong."""
    family, where = address
    try:
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            plain.settimeout(PROBE)
            plain.connect(where)
            if context is None:
                line = plain.recv(512).splitlines()[0]
                return f"says {text_of(line)!r}"
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return f"{secure.version()}, says {text_of(secure.recv(512).splitlines()[0])!r}"
    except (OSError, ValueError, IndexError) as error:
        return f"fails: {getattr(error, 'strerror', None) or error}"


def _address(text: str) -> Address | None:
    """An address and a port; ValueError when it is none."""
    if not text:
        return None
    host, port = parse_server(text)
    return str(ip_address(host)), int(port or 0)
