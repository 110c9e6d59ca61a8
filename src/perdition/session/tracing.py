"""The dialogues of a user's next sessions, up to the login, written to a file for who looks for a
fault: `perditionctl trace`.

While a user is traced every new session keeps its last lines, because a name comes late; they are
dropped unless the name is that user's. Grammars mask what is secret, and what a server might repeat
of the password is cut out here. After the login nothing is written but how the session ended.
Invariant: the file is bounded, and nobody is traced longer than was asked for.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque

from perdition.log import text_of
from perdition.wire.base import Login, Shown

USERS = 16  # traced at once
FILE = 4 * 1_048_576  # bytes, of all workers and daemons that write to one file
LONGEST = 86_400  # seconds
_LINES = 100  # kept of a session whose user is not known yet
_LINE = 1000  # bytes shown of one line
_SECRET = 3  # bytes of a password that is looked for in what a server says
_MASK = b"***"


class Sink:
    """The file of one user, until a monotonic time; closed when nobody writes to it any more."""

    def __init__(self, fd: int, until: float) -> None:
        self._fd = os.dup(fd)
        self.until = until

    def __del__(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """The descriptor, to be handed to another process."""
        return self._fd

    def write(self, lines: str) -> None:
        """Append lines, if there is room for them."""
        data = lines.encode("utf-8", "backslashreplace")
        try:
            if os.fstat(self._fd).st_size + len(data) <= FILE:
                os.write(self._fd, data)
        except OSError:
            pass  # the disk is full: the session goes on


class Traces:
    """Whom to trace, in one process; a worker is forked with the master's."""

    def __init__(self) -> None:
        self.wanted: dict[bytes, Sink] = {}

    def add(self, user: str, fd: int, until: float) -> None:
        """Trace `user` into a copy of `fd`; in place of a trace that there is."""
        self.wanted[user.encode()] = Sink(fd, until)

    def remove(self, user: str) -> None:
        """Trace `user` no more."""
        self.wanted.pop(user.encode(), None)

    def expire(self) -> None:
        """Forget those whose time is over."""
        now = time.monotonic()
        for user in [user for user, sink in self.wanted.items() if sink.until <= now]:
            del self.wanted[user]

    def begin(self, ident: str, ends: str) -> Trace | None:
        """Begin to keep the lines of a session between `ends`; None: nobody is traced."""
        self.expire()
        return Trace(self, f"{ident}[{os.getpid()}]{ends}") if self.wanted else None


class Trace:
    """The lines of one session."""

    def __init__(self, traces: Traces, tag: str) -> None:
        self._traces = traces
        self._tag = tag
        self._kept: deque[str] = deque(maxlen=_LINES)
        self._sink: Sink | None = None
        self._secret = b""

    def login(self, login: Login) -> None:
        """Credentials came: now the user is known."""
        names = (login.authentication_id, login.authorisation_id)
        wanted = self._traces.wanted
        self._sink = next((wanted[name] for name in names if name in wanted), None)
        self._secret = login.password if len(login.password) >= _SECRET else b""
        if self._sink is not None:
            self._sink.write("".join(self._kept))
            self._kept.clear()
            self.note(f"login of {[text_of(name) for name in names if name]}")

    def logged_in(self) -> None:
        """The login is over: its password is needed no more."""
        self._secret = b""

    def note(self, text: str) -> None:
        """Write what is no line of a dialogue."""
        self._write(f"-- {text}")

    def shown(self, peer: str, and_then: Shown | None) -> Shown:
        """What a grammar tells its lines to; `and_then` hears them, too."""

        def say(ours: bool, line: bytes) -> None:
            shown = line.replace(self._secret, _MASK) if self._secret else line
            for each in shown[:_LINE].rstrip(b"\r\n").split(b"\r\n"):
                text = json.dumps(text_of(each), ensure_ascii=False)
                self._write(f"{'perdition' if ours else peer}: {text}")
            if and_then is not None:
                and_then(ours, line)

        return say

    def _write(self, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        if not text.isprintable():
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        line = f"{stamp}.{int(now % 1 * 1000):03}Z {self._tag} {text}\n"
        if self._sink is None:
            self._kept.append(line)
        else:
            self._sink.write(line)
