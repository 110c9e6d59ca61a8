"""Tell systemd how it goes (sd_notify(3)); nothing where nobody asked."""

from __future__ import annotations

import os
import socket
import time

# What a daemon says that has become a newer version of itself, to a supervisor of ours.
UPGRADED = "X_PERDITION_UPGRADED=1"


def notify(*words: str) -> None:
    """Send ``READY=1`` and the like to the service manager."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto("\n".join(words).encode(), address)
        except OSError:
            pass  # the service manager is gone; there is nobody to tell


def notify_reloading() -> None:
    """A reload begins; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
