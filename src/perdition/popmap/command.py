"""A program run for each look-up: the key on its standard input, a flat map's value in return.

Exit status 0 with a line: found; 1 without: no such user; anything else: trouble. The key is never
an argument, so it can't be taken for an option; no shell sees it. Of the daemon's environment and
descriptors the program gets nothing.
Invariant: the program and its process group are gone when the look-up is.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, is_ready, route_of
from perdition.route import Route

TIMEOUT = 5  # seconds from start to end
ANSWER_LIMIT = 65_536  # bytes
NOT_FOUND = 1
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_DYING = 1  # seconds for what was killed to be gone; only a hung device makes it wait


class Map(Popmap):
    """``map_library_opt``: the command line, split as a shell would, run without one."""

    waits = True

    def __init__(self, option: str) -> None:
        try:
            self._words = shlex.split(option)
        except ValueError as error:
            raise MapError(f"the command can't be read: {error}") from None
        if not self._words or not self._words[0].startswith("/"):
            raise MapError("the command map wants a program, named from /")

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT or b"\n" in query.key or b"\0" in query.key:
            return None
        name = os.path.basename(self._words[0])
        until = time.monotonic() + TIMEOUT
        try:
            process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", env=ENVIRONMENT,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise MapError(f"the command map's program: {why}") from None
        try:
            out = self._answer(process, query.key, until)
            if len(out) > ANSWER_LIMIT:
                raise MapError(f"{name}: an answer of more than {ANSWER_LIMIT} bytes")
            _await_end(process, until)
        except TimeoutError:
            raise MapError(f"{name}: no answer within {TIMEOUT} s") from None
        finally:
            _end(process)
        value = out.split(b"\n", 1)[0].strip()
        if process.returncode == 0 and value:
            return route_of(value, query.delimiter)
        if process.returncode == NOT_FOUND and not value:
            return None
        answer = "an" if value else "no"
        raise MapError(f"{name}: ended with status {process.returncode} and {answer} answer")

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], key: bytes, until: float) -> bytes:
        """What the program writes, up to a little more than it may; TimeoutError when too slow."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(key + b"\n")  # a pipe takes it whole
            process.stdin.close()
        except BrokenPipeError:
            pass  # the program does not care for the key
        out, source = b"", process.stdout.fileno()
        while len(out) <= ANSWER_LIMIT:
            if not is_ready(source, until - time.monotonic()):
                raise TimeoutError
            data = os.read(source, 4096)
            if not data:
                return out
            out += data
        return out


def _await_end(process: subprocess.Popen[bytes], until: float) -> None:
    """Wait for the end of a program without taking note of it; TimeoutError when it does not come.

    As long as nobody has, its number can't be another process group's.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        if not is_ready(descriptor, until - time.monotonic()):
            raise TimeoutError
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's group, and take note of the program's end."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_DYING)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
