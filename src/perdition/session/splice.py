"""Bytes from one plain socket to another that never leave the kernel: splice(2), through a pipe.

A worker has one pipe for all its sessions. It saves both copies of a chunk, which is half of what
plain relaying costs; `make bench` shows it as the relay's plain rows.
Invariant: the pipe is empty whenever `move` is left, in whichever way.
"""

from __future__ import annotations

import fcntl
import os

_SIZE = 1 << 20  # bytes; what anybody may ask a pipe to hold
_FLAGS = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


class Pipe:
    """See the module."""

    __slots__ = ("_into", "_out")

    def __init__(self) -> None:
        self._out, self._into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, _SIZE)
        except OSError:
            pass  # the user's pipes hold much already: this one stays small

    def move(self, source: int, sink: int, most: int) -> tuple[int, bytes]:
        """Move up to `most` bytes; return how many there were, and those that the sink left.

        0 is the end of the source. BlockingIOError: there is nothing yet; OSError: one of the two
        is broken.
        """
        got = os.splice(source, self._into, most, flags=_FLAGS)
        left = got
        try:
            while left:
                left -= os.splice(self._out, sink, left, flags=_FLAGS)
        except BlockingIOError:
            return got, os.read(self._out, left)
        except OSError:
            os.read(self._out, left)
            raise
        return got, b""

    def close(self) -> None:
        """Give back both ends."""
        os.close(self._out)
        os.close(self._into)
