"""Daemons as the kernel sees them: found by pid file, named by their title, held by a pidfd.

A pid file belongs to the user whom the daemon runs as, so it is only a hint: a number counts when
the process behind it has the daemon's title, and signals go to a pidfd opened before that was
looked at. So neither a number used anew nor a forged file can hit a process of another name.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
from types import TracebackType

_LISTENING = "0A"  # state of a socket in /proc/net/tcp
_INODE = re.compile(r"socket:\[(\d+)\]")


class Running:
    """A daemon that runs; a context that ends with the hold on it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        os.close(self._pidfd)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing if the daemon has just ended. May raise PermissionError."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def ends_within(self, seconds: float) -> bool:
        """Wait until the daemon has ended; whether it has."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))


def find(command: str, pid_file: str) -> Running | None:
    """Return the daemon `command` that `pid_file` names, None if that does not run.

    PermissionError when this user may not read the file.
    """
    pid = _number(pid_file)
    if not pid:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if not _is_daemon(pid, command):
        os.close(pidfd)
        return None
    return Running(pid, pidfd)


def _number(pid_file: str) -> int:
    try:
        with open(pid_file, "rb") as file:
            text = file.read(32).strip()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return int(text) if text.isdigit() and int(text) < 2**31 else 0


def _is_daemon(pid: int, command: str) -> bool:
    """Whether a process has the daemon's title, or is its program: it is being upgraded."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
    except OSError:
        return False  # it has just ended
    if words[0].rstrip() == f"{command}: daemon".encode():
        return True
    return command.encode() in [os.path.basename(word) for word in words[:2]]


def listening(pid: int) -> list[str] | None:
    """Return the TCP addresses a process listens on; None if this user may not look."""
    inodes = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                link = _INODE.fullmatch(os.readlink(entry.path))
            except FileNotFoundError:
                continue  # closed meanwhile
            if link:
                inodes.add(link[1])
    except PermissionError:
        return None
    except OSError:
        return []  # it has ended
    addresses: list[str] = []
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue  # the kernel has no IPv6, or the daemon has ended
        addresses += [_address(r[1]) for r in rows if r[3] == _LISTENING and r[9] in inodes]
    return list(dict.fromkeys(addresses))  # each worker has a socket of its own on the same port


def _address(text: str) -> str:
    """Read an address as /proc/net/tcp writes it: words of 32 bits in the host's byte order."""
    host, _, port = text.partition(":")
    packed = b"".join(
        struct.pack("=I", int(host[start : start + 8], 16)) for start in range(0, len(host), 8)
    )
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"
