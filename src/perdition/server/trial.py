"""Try all that a start does short of serving: what fails here keeps a daemon from coming up.

Nothing is bound, forked, written or created; the popmap and the keys are read.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Iterator

from perdition.auth.pam import Pam
from perdition.check import ERROR, NOTE, WARNING, Finding
from perdition.config import Config
from perdition.errors import StartError
from perdition.popmap.base import Popmap
from perdition.protocols import TlsUse
from perdition.route import parse_server
from perdition.server.helpers import SERVICE
from perdition.server.listen import addresses
from perdition.server.privileges import find_identity
from perdition.server.setup import make_popmap
from perdition.tls import Passphrase, listen_context, outgoing_context, server_check

_SOCKET_NAME = 107  # bytes: unix(7)
_PAM_FOLDERS = ("/etc/pam.d", "/usr/lib/pam.d")

_TLS_LISTEN = ("ssl_key_file", "ssl_cert_folder", "ssl_dh_params_file", "ssl_ca_chain_file",
               "ssl_ca_file", "ssl_listen_ciphers", "ssl_listen_min_proto_version",
               "ssl_cert_file")  # fmt: skip
_TLS_OUTGOING = ("ssl_outgoing_key_file", "ssl_outgoing_cert_file", "ssl_ca_file", "ssl_ca_path",
                 "ssl_outgoing_ciphers", "ssl_outgoing_fingerprint")  # fmt: skip


def attempt(config: Config) -> tuple[list[Finding], Popmap | None]:
    """What a start would stumble over, and the popmap if there is one."""
    popmaps: list[Popmap | None] = []
    tries: tuple[tuple[Callable[[], object], tuple[str, ...]], ...] = (
        (lambda: find_identity(config.username, config.group), ("username", "group")),
        (lambda: _listen_context(config), _TLS_LISTEN),
        (lambda: _outgoing_contexts(config), _TLS_OUTGOING),
        (lambda: popmaps.append(make_popmap(config)), ("map_library_opt", "map_library")),
        (lambda: addresses(config), ("bind_address", "listen_port")),
    )
    found = []
    for step, options in tries:
        try:
            step()
        except (StartError, OSError) as error:
            found.append(Finding(ERROR, _to_blame(config, str(error), options), str(error)))
    for look in (_user, _log, _pid_file, _doors, _sources, _pam):
        found += look(config)
    return found, popmaps[0] if popmaps else None


def _to_blame(config: Config, text: str, options: tuple[str, ...]) -> str:
    """Which of some options a complaint is about: whose file it shows, or whose name."""
    values = {name: str(getattr(config, name)) for name in options}
    shown = [name for name, value in values.items() if "/" in value and value in text]
    words = re.findall(r"\w+", text)
    named = [name for name in options if name in words]
    if len(shown) == 1:
        return shown[0]
    return next(iter(named or shown), options[-1])


def _listen_context(config: Config) -> None:
    if config.ssl_mode.listen is not TlsUse.NONE:
        listen_context(config, Passphrase(config))


def _outgoing_contexts(config: Config) -> None:
    if config.ssl_mode.outgoing is not TlsUse.NONE:
        outgoing_context(config)
        server_check(config)


def _user(config: Config) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding(
            NOTE,
            "",
            "checked by an ordinary user: if perdition is started as root, it may read and write "
            "more files than this says",
        )
        return
    try:
        identity = find_identity(config.username, config.group)
    except StartError:
        return  # said already
    for name, number in (("username", identity.uid), ("group", identity.gid)):
        if number == 0:
            yield Finding(WARNING, name, f"{name} is root's: what takes clients would own the host")


def _log(config: Config) -> Iterator[Finding]:
    place = config.log_facility
    if place.startswith("/"):
        if os.path.isdir(place):
            yield Finding(ERROR, "log_facility", f"log_facility: {place} is a folder")
        elif not _writable(place):
            yield Finding(ERROR, "log_facility", f"log_facility: {place} can't be written")
    elif place[:1] not in ("-", "+"):
        try:
            if not stat.S_ISSOCK(os.stat(config.log_socket).st_mode):
                text = f"log_socket: {config.log_socket} is no socket: nothing will be logged"
                yield Finding(WARNING, "log_socket", text)
        except OSError as error:
            text = f"log_socket: {config.log_socket}: {error.strerror}: nothing will be logged"
            yield Finding(WARNING, "log_socket", text)


def _writable(path: str) -> bool:
    if os.path.exists(path):
        return os.access(path, os.W_OK)
    return os.access(os.path.dirname(path), os.W_OK | os.X_OK)


def _pid_file(config: Config) -> Iterator[Finding]:
    if not config.pid_file or config.inetd_mode:
        return
    folder = os.path.dirname(config.pid_file)
    parent = os.path.dirname(folder)
    if os.path.isdir(folder):
        usable = os.access(folder, os.W_OK | os.X_OK)
        why = f"{folder} can't be written"
    else:  # perdition makes one folder, not two
        usable = os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)
        why = f"{folder} is not there and can't be made"
    if not usable:
        yield Finding(ERROR, "pid_file", f"pid_file: {why}")


def _doors(config: Config) -> Iterator[Finding]:
    """Sockets that are files, and a port that clients have already."""
    if config.inetd_mode:
        return
    control, metrics = config.control_socket, config.metrics_listen
    for name, path in (("control_socket", control), ("metrics_listen", metrics)):
        if path.startswith("/") and (why := _no_socket(path)):
            yield Finding(ERROR, name, f"{name}: {path}: {why}")
    if metrics and metrics == control:
        yield Finding(ERROR, "metrics_listen", f"metrics_listen: {metrics} is the control_socket")
    elif metrics and not metrics.startswith("/"):
        port = parse_server(metrics).port
        if port in (config.listen_port, *(server.port for server in config.bind_address)):
            text = f"metrics_listen: port {port} is what clients are to connect to"
            yield Finding(ERROR, "metrics_listen", text)


def _no_socket(path: str) -> str:
    """Why there can be no socket of this name; empty: there can."""
    folder = os.path.dirname(path)
    if len(os.fsencode(path)) > _SOCKET_NAME:
        return f"longer than the {_SOCKET_NAME} bytes that the name of a socket may have"
    if not os.path.isdir(folder):
        return f"{folder} is not there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} can't be written"
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "there is a file of this name, and it is no socket"
    return ""


def _sources(config: Config) -> Iterator[Finding]:
    for address in config.outgoing_address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.bind((address, 0))
        except OSError:
            text = f"outgoing_address: {address} is not an address of this host"
            yield Finding(ERROR, "outgoing_address", text)


def _pam(config: Config) -> Iterator[Finding]:
    if not config.authenticate_in:
        return
    try:
        Pam(SERVICE, config.pam_folder)
    except StartError as error:
        yield Finding(ERROR, "authenticate_in", str(error))
    folders = (config.pam_folder,) if config.pam_folder else _PAM_FOLDERS
    if not any(os.path.exists(os.path.join(folder, SERVICE)) for folder in folders):
        text = f"authenticate_in: there is no {folders[0]}/{SERVICE}: PAM takes its rules for other"
        yield Finding(WARNING, "authenticate_in", text)
