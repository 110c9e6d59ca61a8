"""From a user's name to servers: the rules of names, the popmap, and who serves the rest.

The order of 2.2 (section 6 of its description): the name for the look-up, a server that the user
may name, the map under each query key in turn, the default servers. A map that can't tell is never
taken for a map that knows no such user.
Invariant: `find` waits for nothing but what it is given to wait with.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from perdition.errors import MapError
from perdition.popmap.base import Address, Query, checked_server
from perdition.popmap.lookups import Lookups, Pending
from perdition.route import Route, Server
from perdition.session.dial import Rotation
from perdition.session.names import ReverseNames
from perdition.username import NameRules, State, mangle, query_key

_ADDRESS = re.compile(rb"\\[ipIP]")  # of a query key: the client's address or ours

Wait = Callable[[Awaitable[Any]], Awaitable[Any]]  # how the caller waits for a driver
Tell = Callable[[str], None]  # hears each step, for who explains a route


class Rules(NamedTuple):
    """What of the configuration decides about a route."""

    names: NameRules = NameRules()
    client_names_server: bool = False  # ``client_server_specification``
    map_names_user: bool = False  # ``username_from_database``
    query_keys: tuple[bytes, ...] = ()
    port: str = ""  # of a server that comes without
    protocol: str = ""  # services(5) name of what the clients speak


# Servers to try in order, none when the user has none; and the user's name from here on.
Found = tuple[tuple[Server, ...], bytes]


class Routing:
    """How the sessions of a worker find servers; `lookups` is None where there is no map."""

    def __init__(
        self, rules: Rules, lookups: Lookups | None, defaults: Rotation, reverse: ReverseNames
    ) -> None:
        self.rules = rules
        self.lookups = lookups
        self.defaults = defaults
        self._reverse = reverse
        self.changes_names = rules.names.changes
        # Whether the servers are `defaults` whoever it is.
        self.is_fixed = lookups is None and not rules.client_names_server
        names = rules.names
        # With client_server_specification the domain is the server: it is not cut off.
        keep_domain = State.ALL & ~State.SERVERNAME_LOOKUP
        self._key_names = (
            names._replace(strip=names.strip & keep_domain) if rules.client_names_server else names
        )

    async def find(
        self, name: bytes, client: Address | None, local: Address | None, wait: Wait,
        tell: Tell | None = None,
    ) -> Found:  # fmt: skip
        """Return the route of `name`; MapError when the map, or what the user named, is no good."""
        rules = self.rules
        delimiter = rules.names.delimiter
        key = name
        if self.changes_names:
            key = mangle(
                name, State.SERVERNAME_LOOKUP, self._key_names, await self._reached(local, wait)
            )
        if tell:
            tell(f"name for the look-up: {_text(key)}")
        if rules.client_names_server and delimiter in key:
            return self._named(name, key.rpartition(delimiter)[2], tell)
        if self.lookups is not None:
            query = Query(key, delimiter, client, local, rules.protocol)
            route = await self._ask(self.lookups, query, wait, tell)
            if route is not None:
                if route.user and rules.map_names_user:
                    name = route.user
                elif route.user and tell:
                    tell(f"user {_text(route.user)} does not count without username_from_database")
                if route.servers:
                    if tell:
                        tell("servers of the map, the first that works is taken")
                    return self._with_ports(route.servers), name
        if tell:
            tell("servers of outgoing_server, each login begins at the next one")
        return self.defaults.turn(), name

    def _named(self, name: bytes, host: bytes, tell: Tell | None) -> Found:
        """The server that the user named behind the last delimiter; none: the default servers."""
        servers = (checked_server(_text(host)),) if host else self.defaults.turn()
        if tell:
            tell(f"server named by the user: {_text(host) or 'none, so outgoing_server'}")
        user, _, _ = name.rpartition(self.rules.names.delimiter)
        return self._with_ports(servers), user

    async def _ask(
        self, lookups: Lookups, of_user: Query, wait: Wait, tell: Tell | None
    ) -> Route | None:
        """The map's answer to the first query key that it knows."""
        _, delimiter, client, local, _ = of_user
        for form in self.rules.query_keys or (b"\\U",):
            query = of_user
            if form != b"\\U":
                key = query_key(form, of_user.key, delimiter, client, local)
                query = of_user._replace(key=key)
            try:
                answer = lookups.ready(query)
                route: Route | None = (
                    await wait(lookups.ask(query)) if isinstance(answer, Pending) else answer
                )
            except MapError as error:
                if tell:
                    tell(f"query key {_text(query.key)}: {error}")
                raise
            if tell:
                tell(f"query key {_text(query.key)}: {_told(route)}")
            if route is not None:
                return route
        return None

    def flush(self, name: bytes) -> int:
        """Forget what the map said of a user (empty: of all); return how many answers that were.

        All are forgotten where their keys hold more than the user's name.
        """
        if self.lookups is None:
            return 0
        forms = self.rules.query_keys or (b"\\U",)
        if not name or self.rules.names.wants_reached or any(_ADDRESS.search(f) for f in forms):
            return self.lookups.flush()
        delimiter = self.rules.names.delimiter
        key = mangle(name, State.SERVERNAME_LOOKUP, self._key_names, b"")
        keys = {query_key(form, key, delimiter, None, None) for form in forms}
        return self.lookups.flush({*keys, key})

    async def server_name(
        self, name: bytes, state: State, local: Address | None, wait: Wait
    ) -> bytes:
        """Return the user's name as it is used in `state`; needless unless `changes_names`."""
        return mangle(name, state, self.rules.names, await self._reached(local, wait))

    async def _reached(self, local: Address | None, wait: Wait) -> bytes:
        """The reverse name of the address that the client reached, where a rule wants it."""
        if local is None or not self.rules.names.wants_reached:
            return b""
        if self._reverse.known(local[0]) is None:
            await wait(self._reverse.ask(local[0]))
        return (self._reverse.known(local[0]) or "").encode()

    def _with_ports(self, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        port = self.rules.port
        if all(server.port for server in servers):
            return servers
        return tuple(server if server.port else Server(server.host, port) for server in servers)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _told(route: Route | None) -> str:
    if route is None:
        return "no such user"
    servers = ", ".join(map(str, route.servers)) or "no server"
    return servers + (f", user {_text(route.user)}" if route.user else "")
