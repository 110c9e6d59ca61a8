"""The user that workers run as, and becoming it for good."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple

from perdition.errors import StartError


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


def become(identity: Identity) -> None:
    """Drop every privilege, supplementary groups included; nothing if not started as root."""
    if os.geteuid() != 0:
        return
    try:
        if identity.name:
            os.initgroups(identity.name, identity.gid)
        else:
            os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise StartError(
            f"Fatal error setting group and userid. Exiting. ({error.strerror})"
        ) from None
