"""How the master hears sockets without an event loop: the kernel sends SIGIO when one is ready.

The master waits for signals and for nothing else; a watched socket makes one (fcntl(2), O_ASYNC).
A signal says only that something is there: what, is asked of poll(2) until it knows nothing more.
Invariant: no call here waits.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Callable

_ROUNDS = 64  # of poll(2) in a row until workers and signals get their turn


class Ears:
    """Watched sockets of one process; `busy` says that `hear` has left something for later."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], object]] = {}
        self.busy = False

    def watch(
        self, sock: socket.socket, call: Callable[[], object], *, write: bool = False
    ) -> None:
        """Call `call` whenever `sock` can be read (`write`: written), or has failed."""
        fd = sock.fileno()
        if fd not in self._calls:
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        self._calls[fd] = call
        self._poll.register(fd, select.POLLOUT if write else select.POLLIN)
        self.busy = True  # it may have been ready before the kernel knew that we listen

    def forget(self, sock: socket.socket) -> None:
        """Watch it no more; it may be closed next."""
        fd = sock.fileno()
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def hear(self) -> None:
        """Serve all that is ready."""
        for _ in range(_ROUNDS):
            ready = self._poll.poll(0)
            self.busy = bool(ready)
            for fd, _ in ready:
                call = self._calls.get(fd)  # an earlier one may have had it forgotten
                if call is not None:
                    call()
            if not self.busy:
                return
