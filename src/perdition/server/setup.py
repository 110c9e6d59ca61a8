"""From a `Config` to what the sessions of a worker share: the one place that knows both.

Invariant: everything here is made from the configuration alone; a worker builds its own `Service`
on its own loop, the TLS contexts come from the master.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import cast

from perdition import __version__
from perdition.auth.asking import Asking
from perdition.config import Config, warnings
from perdition.config.manual import dump
from perdition.errors import MapError, StartError
from perdition.log import Log, open_target
from perdition.metrics import Meter
from perdition.popmap.base import Popmap
from perdition.popmap.cache import Lifetimes
from perdition.popmap.lookups import Lookups, Terms
from perdition.popmap.registry import map_class
from perdition.protocols import PROTOCOLS, TlsUse
from perdition.server.sweep import Sweep
from perdition.session.addresses import Arrivals, Penalties
from perdition.session.dial import Resolver, Rotation, Sources
from perdition.session.health import Health
from perdition.session.names import ReverseNames
from perdition.session.poller import Poller
from perdition.session.relay import Means
from perdition.session.routing import Routing, Rules
from perdition.session.service import Service, Timeouts
from perdition.session.splice import Pipe
from perdition.session.tracing import Traces
from perdition.session.trail import TrailTerms
from perdition.tls import (
    Passphrase,
    chain_of,
    dh_parameters_file,
    listen_context,
    outgoing_context,
    server_check,
)
from perdition.tls_socket import TlsSocket
from perdition.username import NameRules
from perdition.wire.base import BackTerms, FrontTerms, Shortcuts

AUTHENTICATIONS = 1000  # local ones of a worker under way at once
BUFFER = 1_048_576  # bytes that one relay step moves at most, for a millisecond through TLS


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master makes for the workers of one generation, before it forks them."""

    listen: ssl.SSLContext | None  # None where a leg has no TLS
    outgoing: ssl.SSLContext | None
    server_refusal: Callable[[TlsSocket, str], str] | None
    popmap: Popmap | None
    helpers: socket.socket | None = None  # where to ask for local authentication


def make_log(config: Config) -> Log:
    """Open the log that the options name."""
    target = open_target(config.log_facility, config.log_socket)
    return Log(
        target, config.basename, quiet=config.quiet, debug=config.debug,
        as_json=config.log_format == "json",
    )  # fmt: skip


def make_inherited(
    config: Config, passphrase: Passphrase, helpers: socket.socket | None
) -> Inherited:
    """Read keys, certificates and the popmap; StartError names what can't be used."""
    listen, outgoing = config.ssl_mode
    return Inherited(
        None if listen is TlsUse.NONE else listen_context(config, passphrase),
        None if outgoing is TlsUse.NONE else outgoing_context(config),
        None if outgoing is TlsUse.NONE else _server_refusal(config),
        make_popmap(config),
        helpers,
    )


def _server_refusal(config: Config) -> Callable[[TlsSocket, str], str] | None:
    check = server_check(config)
    if check is None:
        return None
    return lambda sock, host: check.refusal(chain_of(sock), host)


def load_grammar(config: Config) -> ModuleType:
    """Import the protocol's grammar; done before a fork, all workers share it."""
    load_shortcuts(config)
    return import_module(f"perdition.wire.{PROTOCOLS[config.protocol].grammar}")


def load_shortcuts(config: Config) -> Shortcuts | None:
    """Import what the grammar tells at a glance, if the configuration leaves anything usual."""
    module = PROTOCOLS[config.protocol].shortcuts
    listen, outgoing = config.ssl_mode
    if (
        not module
        or outgoing is not TlsUse.NONE
        or listen is TlsUse.TLS_FORCE
        or config.login_disabled
        or config.authenticate_in
        or config.proxy_protocol_outgoing
        or (config.connection_logging and config.debug)
    ):
        return None
    return cast(Shortcuts, import_module(f"perdition.wire.{module}"))


def announce(config: Config, log: Log) -> None:
    """Log what starts, as 2.2 does: not in the foreground unless for debugging."""
    foreground = config.inetd_mode or config.no_daemon or config.log_facility[:1] in ("-", "+")
    if config.debug or not foreground:
        log.info(f"Starting perdition version={__version__} protocol={config.protocol}")
    if config.debug:
        for line in dump(config):
            log.debug(line)
    say_what_is_in_force(config, log)


def say_what_is_in_force(config: Config, log: Log) -> None:
    """Log what an administrator should know of a configuration that works."""
    if config.ssl_mode.listen is not TlsUse.NONE and (file := dh_parameters_file(config)):
        log.info(f'Loaded Diffie-Hellman parameters: "{file}"')
    for warning in warnings(config):
        log.notice(f"warning: {warning}")


def greeting_mark(config: Config) -> str:
    """Eight hex digits that are the same for one configuration and differ between daemons."""
    return f"{zlib.crc32(repr(config).encode()):08x}"


def make_popmap(config: Config) -> Popmap | None:
    """Make the map that the options name and read what it keeps; StartError when it is no good.

    The default map, which nobody asked for, may be missing: then there is none.
    """
    if not config.map_library:
        return None
    asked_for = config.given & {"map_library", "map_library_opt"}
    try:
        popmap_class = map_class(config.map_library)
        if not asked_for and not os.path.exists(getattr(popmap_class, "DEFAULT", "")):
            return None
        popmap = popmap_class(config.map_library_opt)
        popmap.open()
    except MapError as error:
        if not asked_for:
            return None
        raise StartError(f"map_library {config.map_library}: {error}") from None
    return popmap


def _make_asking(
    config: Config, helpers: socket.socket | None, loop: asyncio.AbstractEventLoop
) -> Asking | None:
    if helpers is None:
        return None
    return Asking(loop, helpers, config.pam_timeout, AUTHENTICATIONS)


def _make_lookups(
    config: Config, popmap: Popmap | None, log: Log, meter: Meter | None
) -> Lookups | None:
    if popmap is None:
        return None
    terms = Terms(
        connections=config.map_connections,
        timeout=config.map_timeout,
        queue_limit=config.map_queue_limit,
        cache_size=config.map_cache_size,
        lifetimes=Lifetimes(
            config.map_cache_lifetime, config.map_negative_lifetime, config.map_stale_lifetime
        ),
    )
    another = partial(type(popmap), config.map_library_opt)
    return Lookups(popmap, another, terms, log.err, meter)


class GreetingHosts:
    """The host name in the greeting: the reverse name of the address that the client reached."""

    def __init__(self, names: ReverseNames, config: Config) -> None:
        self._names = names
        self._numeric = config.no_lookup
        self._fixed = os.uname().nodename if config.no_bind_banner else ""

    def known(self, address: str) -> str | None:
        """The name for `address`, or None when it has to be asked for."""
        if self._fixed:
            return self._fixed
        if not address:
            return os.uname().nodename
        if self._numeric:
            return address
        name = self._names.known(address)
        return None if name is None else name or address


def make_service(
    config: Config, inherited: Inherited, log: Log, *, loop: asyncio.AbstractEventLoop,
    poller: Poller, sweep: Sweep, meter: Meter, traces: Traces, arrivals: Arrivals | None = None,
    penalties: Penalties | None = None, inetd_pid: int = 0,
) -> Service:  # fmt: skip
    """Build what a worker's sessions share."""
    grammar = load_grammar(config)
    mark = greeting_mark(config)
    names = ReverseNames(loop)
    hosts = GreetingHosts(names, config)
    routing = make_routing(config, inherited.popmap, log, names, meter)
    return Service(
        loop=loop,
        poller=poller,
        log=log,
        meter=meter,
        traces=traces,
        sweep=sweep,
        relaying=Means(poller, sweep, memoryview(bytearray(BUFFER)), Pipe(), config.timeout),
        front=grammar.Front,
        back=grammar.Back,
        shortcuts=None if routing.changes_names else load_shortcuts(config),
        front_terms=cache(lambda host: _front_terms(config, f"perdition ready on {host} {mark}")),
        back_terms=_back_terms(config, mark),
        trail_terms=TrailTerms(
            config.protocol, config.outgoing_port, config.log_passwd, config.connect_relog,
            f" inetd_pid={inetd_pid}" if inetd_pid else "",
        ),
        arrivals=arrivals,
        penalties=penalties,
        header_from=config.proxy_protocol_networks,
        header_version=config.proxy_protocol_outgoing,
        forward_client=config.forward_client == "auto",
        listen_tls=config.ssl_mode.listen,
        listen_context=inherited.listen,
        outgoing_context=inherited.outgoing,
        server_refusal=inherited.server_refusal,
        greeting_host=hosts.known,
        ask_greeting_host=names.ask,
        routing=routing,
        authenticator=_make_asking(config, inherited.helpers, loop),
        resolver=Resolver(loop),
        health=Health(config.server_retry, _share(config.server_connection_limit, config)),
        sources=Sources(config.outgoing_address) if config.outgoing_address else None,
        timeouts=_timeouts(config),
        first_due=_first_due(config),
        keepalive=config.tcp_keepalive,
        log_dialogue=config.connection_logging and config.debug,
    )  # fmt: skip


def _front_terms(config: Config, ready: str) -> FrontTerms:
    row = PROTOCOLS[config.protocol]
    return FrontTerms(
        ready=ready.encode(),
        capability=getattr(config, row.capability),
        ok_line=config.ok_line.encode(),
        server_resp_line=config.server_resp_line,
        hide_server_errors=config.hide_server_errors,
        login_disabled=config.login_disabled,
        tls=config.ssl_mode.listen,
        line_limit=config.line_limit,
        literal_limit=config.literal_limit,
        pipeline_limit=config.pipeline_limit,
        bad_command_limit=config.bad_command_limit,
        failed_login_limit=config.failed_login_limit,
    )


def _back_terms(config: Config, mark: str) -> BackTerms:
    return BackTerms(
        ready=mark.encode(),
        tls=config.ssl_mode.outgoing,
        line_limit=config.server_line_limit,
        passed_limit=config.server_line_limit,
    )


def make_routing(
    config: Config, popmap: Popmap | None, log: Log, reverse: ReverseNames,
    meter: Meter | None = None,
) -> Routing:  # fmt: skip
    """Build what finds a user's servers."""
    names = NameRules(
        os.fsencode(config.domain_delimiter), config.strip_domain, config.add_domain,
        config.lower_case, os.fsencode(config.explicit_domain),
    )  # fmt: skip
    rules = Rules(
        names, config.client_server_specification, config.username_from_database,
        tuple(map(os.fsencode, config.query_key)), config.outgoing_port,
        PROTOCOLS[config.protocol].service.removesuffix("s"),
    )  # fmt: skip
    defaults = Rotation(config.outgoing_server, config.outgoing_port)
    return Routing(rules, _make_lookups(config, popmap, log, meter), defaults, reverse)


def _share(limit: int, config: Config) -> int:
    """One worker's part of a limit, rounded up."""
    return -(-limit // (config.workers or len(os.sched_getaffinity(0))))


def _first_due(config: Config) -> int:
    """Seconds after a login, if that is ahead of when a session is asked anyway."""
    first = min(filter(None, (config.timeout, config.connect_relog)), default=0)
    return first if first < _timeouts(config).soonest else 0


def _timeouts(config: Config) -> Timeouts:
    # All count from the start of the attempt: a later step's time bounds the earlier ones.
    login = config.login_timeout
    greeting = min(config.greeting_timeout, login)
    connect, authenticate = min(config.connect_timeout, greeting), config.authenticate_timeout
    return Timeouts(
        authenticate=authenticate,
        server=(connect, greeting, login),
        soonest=1 + min(connect, authenticate or connect),
    )
