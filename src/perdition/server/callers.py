"""One connection to the master: a request in, an answer out, each within bounds.

It serves both the control socket and scrapes of metrics: a request ends with `end`, and there is
one of them a connection. Invariant: nothing waits; who is too slow or too long is hung up on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from perdition.server.ears import Ears

CALLERS = 32  # at one door at once; more wait in the kernel's queue
REQUEST = 8192  # bytes
ANSWER = 64 * 1_048_576  # bytes that may wait for a slow reader
PATIENCE = 10.0  # seconds without progress
_CHUNK = 262_144  # bytes
_FDS = 4


class Caller:
    """One connection; `asked` is called once, with the request and the descriptors sent along."""

    def __init__(
        self, ears: Ears, sock: socket.socket, end: bytes,
        asked: Callable[[Caller, bytes], None], gone: Callable[[Caller], None],
    ) -> None:  # fmt: skip
        self._ears = ears
        self.sock = sock
        self._end = end
        self._asked = asked
        self._gone = gone
        self._request = b""
        self._waiting: list[bytes] = []  # of the answer
        self._bytes = 0  # of it
        self._last = False
        self.fds: list[int] = []
        self.closed = False
        self.due = time.monotonic() + PATIENCE
        ears.watch(sock, self._readable)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, REQUEST, _FDS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        self.fds += fds
        self._request += data
        request, found, _ = self._request.partition(self._end)
        if not data or len(self._request) > REQUEST or len(self.fds) > _FDS:
            self.close()
        elif found:
            self._ears.forget(self.sock)
            self.due = float("inf")  # what is asked has a deadline of its own
            self._asked(self, request)

    def say(self, data: bytes, *, last: bool = False) -> None:
        """Send `data`, a part of the answer; hang up once the `last` is sent."""
        if self.closed:
            return
        self._waiting.append(data)
        self._bytes += len(data)
        self._last = self._last or last
        if self._bytes > ANSWER:
            self.close()
        else:
            self._send()

    def _send(self) -> None:
        data = b"".join(self._waiting)
        try:
            sent = 0
            while sent < len(data):
                sent += self.sock.send(data[sent : sent + _CHUNK])
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        if sent:
            self.due = time.monotonic() + PATIENCE
        rest = data[sent:]
        self._waiting, self._bytes = ([rest] if rest else []), len(rest)
        if rest:
            self.due = min(self.due, time.monotonic() + PATIENCE)
            self._ears.watch(self.sock, self._send, write=True)
        elif self._last:
            self.close()
        else:
            self._ears.forget(self.sock)
            self.due = float("inf")

    def leave(self) -> None:
        """In a child: let go of what the master goes on with."""
        self.sock.close()
        for fd in self.fds:
            os.close(fd)

    def close(self) -> None:
        """Hang up; may be called twice."""
        if self.closed:
            return
        self.closed = True
        self._ears.forget(self.sock)
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self._gone(self)


class Callers:
    """Those at one door: `sock` listens, and a request ends with `end`."""

    def __init__(
        self, ears: Ears, sock: socket.socket, end: bytes, asked: Callable[[Caller, bytes], None]
    ) -> None:
        self._ears = ears
        self._sock = sock
        self._end = end
        self._asked = asked
        self.here: set[Caller] = set()
        sock.setblocking(False)
        ears.watch(sock, self._accept)

    @property
    def due(self) -> float:
        """When to call `tick` next, in monotonic seconds."""
        return min((caller.due for caller in self.here), default=float("inf"))

    def tick(self, now: float) -> None:
        """Hang up on who has let us wait."""
        for caller in [each for each in self.here if each.due <= now]:
            caller.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return  # gone already, or no descriptor is free: it stays in the queue
        sock.setblocking(False)
        self.here.add(Caller(self._ears, sock, self._end, self._asked, self._left))
        if len(self.here) >= CALLERS:
            self._ears.forget(self._sock)

    def _left(self, caller: Caller) -> None:
        self.here.discard(caller)
        if self._sock.fileno() >= 0:
            self._ears.watch(self._sock, self._accept)

    def leave(self) -> None:
        """In a child: let go of what the master goes on with."""
        self._sock.close()
        for caller in self.here:
            caller.leave()

    def close(self) -> None:
        """Close the door; who is in is served to the end."""
        self._ears.forget(self._sock)
        self._sock.close()
