"""Become a daemon, and tell the one who started us how that went.

The first process stays until the daemon has come up or failed, so that its exit status and its
stderr are the truth (2.2 says 0 whatever happens after it has detached).
"""

from __future__ import annotations

import os
import sys

_LONGEST = 4096  # bytes of what the daemon says: a write that a pipe takes whole


class Detached:
    """In the daemon: the way back to the first process, until `came_up` or `failed`."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def came_up(self) -> None:
        """Let the first process exit with success."""
        self._say(b"")

    def failed(self, text: str) -> None:
        """Let the first process print `text` and exit with failure."""
        self._say(b"failed " + text.encode("utf-8", "backslashreplace")[: _LONGEST - 7])

    def _say(self, word: bytes) -> None:
        if self._pipe >= 0:
            os.write(self._pipe, word or b"up")
            os.close(self._pipe)
            self._pipe = -1


def detach(failure_status: int) -> Detached:
    """Fork away from terminal and session; only the daemon returns from here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        # One message; no wait for the end of the pipe, which workers hold as well.
        word = os.read(reader, _LONGEST)
        os.waitpid(pid, 0)
        if word == b"up":
            os._exit(0)
        text = word.removeprefix(b"failed ").decode("utf-8", "replace")
        print(text or "the daemon died while it started", file=sys.stderr, flush=True)
        os._exit(failure_status)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return Detached(writer)
