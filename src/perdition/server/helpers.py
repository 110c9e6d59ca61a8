"""The helper processes for local authentication: started before privileges go, replaced if lost.

They are the master's children and keep its privileges; a generation of workers asks them through
one socket. Invariant: when the master and its workers are gone, so are they.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from setproctitle import setproctitle

SERVICE = "perdition"


class Helpers:
    """As many processes as asked for, all reading from one socket; `ask` is its other end."""

    def __init__(self, title: str, count: int, folder: str = "") -> None:
        """Load PAM, so that its lack is known now; StartError when there is none."""
        from perdition.auth.helper import serve  # noqa: PLC0415 - most daemons need neither
        from perdition.auth.pam import Pam  # noqa: PLC0415

        self._serve = serve
        self._pam = Pam(SERVICE, folder)
        self._title = title
        self.count = count
        self.pids: set[int] = set()
        self.ask, self._answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fill_up(self, in_child: Callable[[], None] = lambda: None) -> None:
        """Start what is missing; a child calls `in_child` first."""
        while len(self.pids) < self.count:
            pid = os.fork()
            if pid:
                self.pids.add(pid)
                continue
            status = 70
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                    # The workers need it until they have ended; then the socket ends it.
                    signal.signal(number, signal.SIG_IGN)
                self.ask.close()
                in_child()
                setproctitle(f"{self._title}: authentication")
                self._serve(self._answer, self._pam)
                status = 0
            finally:
                os._exit(status)

    def close(self) -> None:
        """Ask no more from here; the processes end when the workers have closed their ends."""
        self.ask.close()
        self._answer.close()
