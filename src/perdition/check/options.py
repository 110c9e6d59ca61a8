"""Rules that need nothing but the options."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterator
from itertools import pairwise

from perdition.check.findings import ERROR, NOTE, WARNING, Finding
from perdition.config import Config, warnings
from perdition.config.options import OPTIONS
from perdition.errors import MapError
from perdition.popmap.registry import map_class
from perdition.protocols import PROTOCOLS, TlsUse
from perdition.route import Server
from perdition.username import State

_OLD = ("sslv3", "tlsv1", "tlsv1.1")
_FEWEST_BITS = 128  # of a cipher's key; less is weak
_NAMED = 3  # weak ciphers that a finding names
_WEAK = re.compile(r"RC4|DES|IDEA|SEED|MD5")
_MECHANISM = re.compile(r"AUTH=([\w-]+)")
_MECHANISMS = ("PLAIN", "LOGIN")  # that the fronts know


def told_at_the_start(config: Config) -> Iterator[Finding]:
    """What a start says as well."""
    for text in warnings(config):
        yield Finding(WARNING, text.split()[0], text)


def no_way_to_a_server(config: Config) -> Iterator[Finding]:
    if config.login_disabled:
        yield Finding(NOTE, "login_disabled", "login_disabled refuses every login")
    elif not (config.outgoing_server or config.client_server_specification or _has_map(config)):
        yield Finding(
            ERROR, "", "nothing says where mail is: there is no outgoing_server and no popmap"
        )


def _has_map(config: Config) -> bool:
    """Whether there is a popmap: one that is asked for, or the default's file."""
    if config.given.isdisjoint(("map_library", "map_library_opt")):
        try:
            return os.path.exists(getattr(map_class(config.map_library), "DEFAULT", ""))
        except MapError:
            return False
    return bool(config.map_library)


def passwords_in_the_log(config: Config) -> Iterator[Finding]:
    if config.debug and config.log_passwd != "never":
        which = {"ok": "good", "fail": "failed"}.get(config.log_passwd, "all")
        yield Finding(
            WARNING, "log_passwd", f"log_passwd writes the passwords of {which} logins to the log"
        )


def clear_text(config: Config) -> Iterator[Finding]:
    listen, outgoing = config.ssl_mode
    if listen is TlsUse.NONE and not _all_local(config.bind_address) and not config.inetd_mode:
        yield Finding(
            WARNING, "ssl_mode", "ssl_mode has no TLS for clients: they send passwords in clear"
        )
    elif listen is TlsUse.TLS:
        yield Finding(
            NOTE, "ssl_mode", "ssl_mode leaves TLS to the clients; tls_listen_force asks it of all"
        )
    if outgoing is TlsUse.TLS:
        yield Finding(
            WARNING,
            "ssl_mode",
            "ssl_mode: whoever is between us and a server can take TLS away; tls_outgoing_force "
            "prevents that",
        )
    elif outgoing is TlsUse.NONE and not _all_local(config.outgoing_server):
        yield Finding(
            NOTE, "ssl_mode", "ssl_mode has no TLS for servers: they get passwords in clear"
        )


def _all_local(servers: tuple[Server, ...]) -> bool:
    local = [s.host in ("localhost", "::1") or s.host.startswith("127.") for s in servers]
    return bool(local) and all(local)


def old_versions(config: Config) -> Iterator[Finding]:
    for leg, use in config.ssl_mode._asdict().items():
        name = f"ssl_{leg}_min_proto_version"
        if use is not TlsUse.NONE and (version := getattr(config, name)) in _OLD:
            yield Finding(WARNING, name, f"{name} {version}: broken versions of TLS are spoken")


def weak_ciphers(config: Config) -> Iterator[Finding]:
    for leg, use in config.ssl_mode._asdict().items():
        name = f"ssl_{leg}_ciphers"
        ciphers = getattr(config, name)
        if use is TlsUse.NONE or not ciphers:
            continue
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            continue  # that is an error, which a trial of the contexts tells
        let_in = [dict(each) for each in context.get_ciphers()]
        weak = [str(each["name"]) for each in let_in if _is_weak(each)]
        if weak:
            yield Finding(WARNING, name, f"{name} lets weak ciphers in: {_some(weak)}")
        kept = [str(each["name"]) for each in let_in if each.get("kea") == "kx-rsa"]
        if kept:
            text = f"{name} lets ciphers without forward secrecy in: {_some(kept)}"
            yield Finding(NOTE, name, text)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _is_weak(cipher: dict[str, object]) -> bool:
    bits = cipher.get("strength_bits", _FEWEST_BITS)
    assert isinstance(bits, int)
    none = cipher.get("auth") == "auth-null"
    return bits < _FEWEST_BITS or none or bool(_WEAK.search(str(cipher["name"])))


_RELAXED = {
    "ssl_no_cert_verify": "anybody in between can be the server, and read passwords",
    "ssl_no_cn_verify": "whoever has any certificate of a known authority can be the server",
    "ssl_cert_accept_self_signed": "anybody in between can be the server, and read passwords",
    "ssl_ca_accept_self_signed": "anybody in between can be the server, and read passwords",
    "ssl_cert_accept_expired": "keys that were given up long ago are still believed",
    "ssl_cert_accept_not_yet_valid": "certificates are believed ahead of their time",
}


def servers_not_verified(config: Config) -> Iterator[Finding]:
    if config.ssl_mode.outgoing is TlsUse.NONE or config.ssl_outgoing_fingerprint:
        return
    for name, danger in _RELAXED.items():
        if getattr(config, name):
            yield Finding(
                WARNING, name, f"{name}: {danger}; ssl_ca_file or ssl_outgoing_fingerprint avoid it"
            )
            if name == "ssl_no_cert_verify":
                return  # the others add nothing


def clients_not_verified(config: Config) -> Iterator[Finding]:
    if config.ssl_mode.listen is TlsUse.NONE or not config.ssl_require_client_cert:
        return
    for name in ("ssl_no_client_cert_verify", "ssl_no_cert_verify"):
        if getattr(config, name):
            text = f"ssl_require_client_cert has no effect beside {name}: nobody is asked"
            yield Finding(WARNING, "ssl_require_client_cert", text)
            return
    if not config.ssl_ca_chain_file:
        text = "ssl_require_client_cert has no effect without ssl_ca_chain_file: nobody is asked"
        yield Finding(WARNING, "ssl_require_client_cert", text)


def users_choose_servers(config: Config) -> Iterator[Finding]:
    if config.client_server_specification:
        yield Finding(
            WARNING,
            "client_server_specification",
            "client_server_specification lets anybody have perdition connect to any host and port",
        )


def no_bound(config: Config) -> Iterator[Finding]:
    for name, what in (
        ("authenticate_timeout", "clients that never log in stay for ever"),
        ("failed_login_limit", "passwords can be guessed without end on one connection"),
    ):
        if not getattr(config, name):
            yield Finding(WARNING, name, f"{name} 0: {what}")


def times_in_odd_order(config: Config) -> Iterator[Finding]:
    names = ("connect_timeout", "greeting_timeout", "login_timeout")
    for shorter, longer in pairwise(names):
        less, more = getattr(config, shorter), getattr(config, longer)
        if less > more:
            name = shorter if shorter in config.given else longer
            text = f"{shorter} {less} is longer than {longer} {more}, which begins no later"
            yield Finding(WARNING, name, text)
    if 0 < config.authenticate_timeout <= config.login_timeout:
        name = "authenticate_timeout"
        if name not in config.given:
            name = "login_timeout"
        yield Finding(
            NOTE,
            name,
            f"authenticate_timeout {config.authenticate_timeout} is over before a slow server's "
            f"login_timeout {config.login_timeout}",
        )


def mechanisms_that_there_are_not(config: Config) -> Iterator[Finding]:
    name = PROTOCOLS[config.protocol].capability
    for mechanism in _MECHANISM.findall(getattr(config, name).upper()):
        if mechanism not in _MECHANISMS:
            text = f"{name} announces AUTH={mechanism}, which perdition does not know"
            yield Finding(WARNING, name, text)


_LISTEN = (
    "ssl_ca_chain_file", "ssl_cert_file", "ssl_cert_folder", "ssl_dh_params_file", "ssl_key_file",
    "ssl_listen_ciphers", "ssl_listen_max_proto_version", "ssl_listen_min_proto_version",
    "ssl_no_cipher_server_preference", "ssl_no_client_cert_verify", "ssl_passphrase_file",
    "ssl_require_client_cert",
)  # fmt: skip
_OUTGOING = (
    "ssl_ca_accept_self_signed", "ssl_ca_path", "ssl_cert_accept_expired",
    "ssl_cert_accept_not_yet_valid", "ssl_cert_accept_self_signed", "ssl_cert_verify_depth",
    "ssl_no_cn_verify", "ssl_outgoing_cert_file", "ssl_outgoing_ciphers",
    "ssl_outgoing_fingerprint", "ssl_outgoing_key_file", "ssl_outgoing_max_proto_version",
    "ssl_outgoing_min_proto_version",
)  # fmt: skip
# Options -> when they do nothing, and in which words.
_IDLE: tuple[tuple[tuple[str, ...], str, Callable[[Config], bool]], ...] = (
    (_LISTEN, "as ssl_mode has no TLS for clients", lambda c: c.ssl_mode.listen is TlsUse.NONE),
    (
        _OUTGOING,
        "as ssl_mode has no TLS for servers",
        lambda c: c.ssl_mode.outgoing is TlsUse.NONE,
    ),
    (
        ("ssl_ca_file", "ssl_no_cert_verify"),
        "as ssl_mode has no TLS for servers, and clients are not asked for certificates",
        lambda c: c.ssl_mode.outgoing is TlsUse.NONE and not c.ssl_ca_chain_file,
    ),
    (
        ("bind_address", "connection_limit", "listen_backlog", "listen_port", "no_daemon",
         "pid_file", "reload_timeout", "shutdown_timeout", "workers"),
        "in inetd_mode",
        lambda c: c.inetd_mode,
    ),
    (("pam_folder", "pam_processes", "pam_timeout"), "without authenticate_in",
     lambda c: not c.authenticate_in),
    (
        ("map_cache_lifetime", "map_cache_size", "map_connections", "map_library_opt",
         "map_negative_lifetime", "map_queue_limit", "map_stale_lifetime", "map_timeout",
         "query_key", "username_from_database"),
        "without map_library",
        lambda c: not c.map_library,
    ),
    (("explicit_domain",), "without add_domain", lambda c: c.add_domain.states is State.NONE),
    (("quiet",), "beside debug", lambda c: c.debug),
    (("hide_server_errors",), "beside server_resp_line", lambda c: c.server_resp_line),
    (("username", "group"), "where perdition is not started as root", lambda c: os.geteuid() != 0),
)  # fmt: skip


def without_effect(config: Config) -> Iterator[Finding]:
    own = PROTOCOLS[config.protocol].capability
    rows = [*_IDLE]
    if "capability" not in config.given:
        others = {row.capability for row in PROTOCOLS.values()} - {own}
        rows.append((tuple(sorted(others)), f"where {config.protocol} is spoken", lambda _: True))
    for names, why, idle in rows:
        for name in names:
            if name in config.given and _is_set(config, name) and idle(config):
                yield Finding(NOTE, name, f"{name} has no effect {why}")


def _is_set(config: Config, name: str) -> bool:
    return bool(getattr(config, name)) or bool(OPTIONS[name].default)
