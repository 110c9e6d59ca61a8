"""What perdition.service needs beyond what it has, for one host's configuration, as a drop-in.

The unit starts as a user of its own in a sandbox, where Perdition 2.2 started as root without one.
An upgrade must not stop what worked: each rule here says what a daemon would miss. Only files'
owners and modes are looked at; nothing is read but configurations.
Invariant: a configuration that misses nothing gives an empty text.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence

from perdition.config import Config, load
from perdition.config.options import OPTIONS
from perdition.errors import ConfigError, MapError
from perdition.popmap.registry import map_class

USER = "perdition"  # the units'

# As share/systemd/as-root.conf, beyond what the unit has.
AS_ROOT = (
    "User=root",
    "Group=root",
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_DAC_READ_SEARCH CAP_SETPCAP"
    " CAP_SETUID CAP_SETGID CAP_KILL",
    "AmbientCapabilities=",
    "SystemCallFilter=@setuid",
)
_ANY_OWNER = "CapabilityBoundingSet=CAP_DAC_OVERRIDE"
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")

Need = tuple[str, tuple[str, ...]]  # why, and which lines


def drop_in(commands: Iterable[Sequence[str]], broken: Iterable[str], program: str) -> str:
    """The drop-in for the daemons that these words start; `broken` are those that can't start.

    `program` is what runs them, perdition-service.
    """
    needs: dict[str, None] = {}  # lines, in order
    reasons: dict[str, None] = {}
    for name, *words in commands:
        command = os.path.basename(name)
        try:
            config = load(command, words, directory="/")
        except ConfigError:
            continue  # it can't start, whatever the unit allows
        for why, lines in _needs(config):
            reasons[f"# {command}: {why}"] = None
            needs |= dict.fromkeys(lines)
    for command in broken:
        reasons[f"# {command}: can't start now, which must not keep the others from it"] = None
        needs |= dict.fromkeys(("ExecStart=", f"ExecStart={program} --tolerant run"))
    if not needs:
        return ""
    head = "# What this host's configuration needs beyond perdition.service, and why:"
    return "\n".join((head, *reasons, "", "[Service]", *needs)) + "\n"


def _needs(config: Config) -> Iterator[Need]:
    for name in ("username", "group"):
        if name in config.given:
            yield f"{name} {getattr(config, name)}: workers change to it", AS_ROOT
    if config.authenticate_in:
        yield "authenticate_in: PAM may have to read /etc/shadow", AS_ROOT
    if config.log_facility.startswith("/"):
        yield from _log_needs(config.log_facility)
    if (path := _map_file(config)) and not _may(path, stat.S_IRUSR):
        yield f"{path}: the user {USER} may not read this popmap", AS_ROOT
    for option in OPTIONS.values():
        file = getattr(config, option.name) if option.path else ""
        if file and _is_below(file, _HOMES):
            yield f"{option.name} {file}: is in a home", ("ProtectHome=read-only",)
        if file and _is_below(file, _TEMPORARY):
            yield f"{option.name} {file}: is among temporary files", ("PrivateTmp=no",)


def _log_needs(path: str) -> Iterator[Need]:
    folder = os.path.dirname(os.path.realpath(path))
    if not _is_below(path, ("/var/log", *_HOMES, *_TEMPORARY)):
        yield f"log_facility {path}: only /var/log may be written", (f"ReadWritePaths={folder}",)
    if _is_below(path, _HOMES):
        yield f"log_facility {path}: is in a home", (f"ReadWritePaths={folder}",)
    if _is_below(path, ("/var/log/perdition",)):
        return  # the service manager gives all in there to the units' user
    for target in (path, folder):
        try:
            owner = os.stat(target).st_uid
        except OSError:
            continue
        if not _may(target, stat.S_IWUSR):
            lines = AS_ROOT if owner == 0 else (*AS_ROOT, _ANY_OWNER)
            yield f"log_facility {path}: the user {USER} may not write there", lines
        return


def _map_file(config: Config) -> str:
    """The popmap's file; empty when it has none."""
    if config.no_lookup or not config.map_library:
        return ""
    try:
        popmap = map_class(config.map_library)(config.map_library_opt)
    except MapError:
        return ""
    path = getattr(popmap, "path", "")
    return path if isinstance(path, str) and os.path.exists(path) else ""


def _may(path: str, right: int) -> bool:
    """Whether the units' user has S_IRUSR or S_IWUSR to a file, itself or by its own group."""
    state = os.stat(path)
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return bool(state.st_mode & right >> 6)
    if state.st_uid == user.pw_uid:
        return bool(state.st_mode & right)
    if state.st_gid == user.pw_gid:
        return bool(state.st_mode & right >> 3)
    return bool(state.st_mode & right >> 6)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(os.path.realpath(path).startswith(f"{folder}/") for folder in folders)
