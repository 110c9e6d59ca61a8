"""The user that workers run as, and becoming it for good."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from typing import NamedTuple

from perdition.errors import StartError
from perdition.server.kernel import Kernel


class Identity(NamedTuple):
    """A user and a group as numbers, with the name that its supplementary groups hang on."""

    name: str
    uid: int
    gid: int


def find_identity(username: str, group: str) -> Identity:
    """Look up names or numbers; StartError when there is no such user or group."""
    try:
        user = pwd.getpwuid(int(username)) if username.isdigit() else pwd.getpwnam(username)
        uid, name = user.pw_uid, user.pw_name
    except KeyError:
        if not username.isdigit():
            raise StartError(f"username: no such user: {username!r}") from None
        uid, name = int(username), ""
    if group.isdigit():
        return Identity(name, uid, int(group))
    try:
        return Identity(name, uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise StartError(f"group: no such group: {group!r}") from None


def become(identity: Identity, *, core_dumps: bool = False) -> None:
    """Drop every privilege for good: user and groups if started as root, and all capabilities.

    A service manager may have given capabilities to an ordinary user; they go as well. From then
    on no program that is run can bring any back, and unless `core_dumps` the memory is closed to
    other processes of the same user.
    """
    kernel = Kernel()
    try:
        kernel.empty_bounding_set()
        if os.geteuid() == 0:
            if identity.name:
                os.initgroups(identity.name, identity.gid)
            else:
                os.setgroups([])
            os.setresgid(identity.gid, identity.gid, identity.gid)
            os.setresuid(identity.uid, identity.uid, identity.uid)
        kernel.drop_capabilities()
        kernel.forbid_new_privileges()
        kernel.set_dumpable(core_dumps)
    except OSError as error:
        raise StartError(
            f"Fatal error setting group and userid. Exiting. ({error.strerror})"
        ) from None


def close_memory(*, core_dumps: bool) -> None:
    """Leave no core, and let no process of the same user look in; for one that keeps its rights."""
    Kernel().set_dumpable(core_dumps)


def be_careful(*, core_dumps: bool) -> None:
    """At the start: files are made for their owner alone, no process to come leaves a core."""
    os.umask(0o077)
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most) if core_dumps else (0, 0))
