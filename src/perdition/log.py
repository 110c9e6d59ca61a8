"""Where log lines go: syslog, a file, stdout or stderr; plain text or JSON.

Nothing here blocks: a worker's lines are written behind a batch of events, or when there are many;
what the target does not take then waits in a bounded backlog, and what does not fit there is
dropped and counted. A line waits in pieces, and is put together with those it is written with: all
in one go costs half of what it does here and there.
Invariant: one call, one line; control characters in a text are escaped, so that no peer can forge
a line.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
from collections import deque
from collections.abc import Mapping
from itertools import islice
from time import gmtime, localtime, strftime, time
from typing import Protocol

from perdition.errors import StartError

ERR, NOTICE, INFO, DEBUG = 3, 5, 6, 7  # syslog(3) priorities
PRIORITY_NAMES = {ERR: "error", NOTICE: "notice", INFO: "info", DEBUG: "debug"}
BACKLOG_LINES = 4096
_AT_ONCE = 256  # lines written together
_WAITING = 64  # lines that wait for others, at most for a second, while there is much to do

FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6,
    "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
    **{f"local{n}": 16 + n for n in range(8)},
}  # fmt: skip

ESCAPES = {n: f"\\x{n:02x}" for n in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r"}


Line = tuple[str, ...]  # in pieces


def text_of(data: bytes) -> str:
    """Return peer data as text for the log: UTF-8 where it is, other bytes as ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


class Target(Protocol):
    """Something that takes whole lines."""

    rest: bytes  # of what it has taken and could not send yet

    def mark(self, priority: int) -> str:
        """What a line of that priority begins with, ahead of its time."""

    def take(self, lines: deque[Line]) -> None:
        """Send lines, taking those that are sent off the left; never block."""

    def fileno(self) -> int:
        """The descriptor, to be handed to another process."""

    def close(self) -> None:
        """Let go of it."""


class SyslogTarget:
    """A syslog socket (datagrams, RFC 3164 as the C library sends them)."""

    def __init__(self, path: str, facility: str) -> None:
        self.path = path
        self.rest = b""
        self.facility = FACILITIES[facility] << 3
        self.socket: socket.socket | None = None

    def mark(self, priority: int) -> str:
        """Facility and priority."""
        return f"<{self.facility | priority}>"

    def take(self, lines: deque[Line]) -> None:
        """Send a datagram a line; a missing or restarted syslog daemon is tried at each call."""
        try:
            if self.socket is None:
                self.socket = self._connect()
            while lines:
                self.socket.send(_bytes_of("".join(lines[0])))
                lines.popleft()
        except BlockingIOError:
            pass  # it is slow: later
        except OSError as error:
            self.close()
            if error.errno == errno.EMSGSIZE:
                lines.popleft()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return sock

    def fileno(self) -> int:
        return -1 if self.socket is None else self.socket.fileno()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class DescriptorTarget:
    """A file, pipe, terminal or stream socket; lines carry a line end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.rest = b""
        self.stream = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self.socket = socket.socket(fileno=os.dup(fd)) if self.stream else None

    def mark(self, priority: int) -> str:
        """Nothing: whoever reads the lines sees no priorities."""
        return ""

    def take(self, lines: deque[Line]) -> None:
        """Write the lines at once; of one that went out in part the rest goes first."""
        while self.rest or lines:
            if not self.rest:
                self.rest = _bytes_of("\n".join(map("".join, islice(lines, _AT_ONCE))) + "\n")
                if len(lines) > _AT_ONCE:
                    for _ in range(_AT_ONCE):
                        lines.popleft()
                else:
                    lines.clear()
            try:
                self.rest = self.rest[self._send(self.rest) :]
            except BlockingIOError:
                return
            if self.rest:
                return

    def _send(self, data: bytes) -> int:
        try:
            if self.socket is not None:
                return self.socket.send(data, socket.MSG_DONTWAIT)
            return os.write(self.fd, data)
        except BlockingIOError:
            raise
        except OSError:
            return len(data)  # disk full or reader gone: the line is lost, the service goes on

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        os.close(self.fd)
        if self.socket is not None:
            self.socket.close()


def _nonblocking_copy(fd: int) -> int:
    """Return a copy of `fd`; that of a pipe or terminal never blocks, nor does it touch `fd`."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            pass  # another user's terminal
    return os.dup(fd)


def _open_file(path: str) -> int:
    """Open a log to append to; a new one may be read by its group, whatever the mask."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, 0o600)
    os.fchmod(fd, 0o640)
    return fd


def open_target(facility: str, syslog_path: str) -> Target:
    """Open what ``log_facility`` names; StartError when there is no such thing."""
    if facility.startswith("-"):
        return DescriptorTarget(_nonblocking_copy(1))
    if facility.startswith("+"):
        return DescriptorTarget(_nonblocking_copy(2))
    if facility.startswith("/"):
        try:
            return DescriptorTarget(_open_file(facility))
        except OSError as error:
            raise StartError(f"log_facility: {facility}: {error.strerror}") from None
    if facility not in FACILITIES:
        raise StartError(f"log_facility: no such facility: {facility!r}")
    return SyslogTarget(syslog_path, facility)


class Log:
    """The log of one process: lines with 2.2's ident, or JSON objects."""

    def __init__(
        self, target: Target, ident: str, *, quiet: bool = False, debug: bool = False,
        as_json: bool = False,
    ) -> None:  # fmt: skip
        self.target = target
        self.ident = ident
        self.most = DEBUG if debug else ERR if quiet else INFO
        self.debugging = debug
        self.as_json = as_json
        self.lost = 0
        self.batching = False  # whether somebody calls `batch_over`, and `flush` every second
        self._lines: deque[Line] = deque()  # that the target has not taken
        self._heads: dict[int, str] = {}  # of the lines of this second, by priority
        self.after_fork()

    def after_fork(self) -> None:
        """Take this process's number into the lines to come; those before are the parent's."""
        self._lines.clear()
        self.target.rest = b""
        self._tag = f" {self.ident}[{os.getpid()}]: "
        self._second = 0  # of the heads
        self._dated = False  # whether that is the time of the batch under way

    def set_level(self, name: str) -> None:
        """Write lines of this priority (a name of `PRIORITY_NAMES`) and above from now on."""
        self.most = next(number for number, each in PRIORITY_NAMES.items() if each == name)
        self.debugging = self.most >= DEBUG

    def err(self, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Say what an administrator must see."""
        self.write(ERR, text, fields)

    def notice(self, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Say what is worth keeping: the Auth lines."""
        if self.most >= NOTICE:
            self.write(NOTICE, text, fields)

    def info(self, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Say what happens in the normal course."""
        if self.most >= INFO:
            self.write(INFO, text, fields)

    def debug(self, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Say what only somebody who looks for a fault wants."""
        if self.debugging:
            self.write(DEBUG, text, fields)

    def write(self, priority: int, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Write one line of `priority`, whatever the level."""
        self.put(priority, (self.shown(text),), fields)

    def shown(self, text: str) -> str:
        """Escape what may not stand in a line as it is; JSON has its own way."""
        return text if text.isprintable() or self.as_json else text.translate(ESCAPES)

    def put(self, priority: int, line: Line, fields: Mapping[str, object] | None = None) -> None:
        """Write one line whose pieces are `shown`."""
        if self.as_json:
            line = (self._json(priority, "".join(line), fields),)
        if not self._dated:
            self._look_at_clock()
        self._lines.append((self._heads[priority],) + line)  # noqa: RUF005 - half as dear
        if not self.batching:
            self.batch_over(crowded=False)

    def fault(self, what: str, error: BaseException) -> None:
        """Say that the program itself is wrong: where, but no value that the error may carry."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = ""
        if trace is not None:
            place = f" in {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        self.err(f"internal error ({what}): {type(error).__name__}{place}")

    def batch_over(self, crowded: bool) -> None:
        """A batch of events is over; behind a crowded one, a few lines wait for those of the next.

        It may be long in coming: `flush` is to be called every second.
        """
        self._dated = False
        if not crowded or len(self._lines) >= _WAITING:
            self.flush()

    def flush(self) -> None:
        """Offer the backlog to the target."""
        lines = self._lines
        if lines or self.target.rest:
            self.target.take(lines)
            while len(lines) > BACKLOG_LINES:
                lines.pop()
                self.lost += 1
            if self.lost and not lines:
                lost, self.lost = self.lost, 0
                self.err(f"{lost} log lines lost: the log target did not take them")

    def _look_at_clock(self) -> None:
        """What the lines of a batch begin with: all have the time of the first."""
        self._dated = True
        second = int(time())
        if second == self._second:
            return
        self._second = second
        head = strftime("%b %d %H:%M:%S", localtime(self._second)) + self._tag
        for priority in PRIORITY_NAMES:
            mark = self.target.mark(priority)
            # An object of JSON says all that itself, but syslog wants its header.
            self._heads[priority] = "" if self.as_json and not mark else mark + head

    def _json(self, priority: int, text: str, fields: Mapping[str, object] | None) -> str:
        now = time()
        record: dict[str, object] = {
            "time": strftime("%Y-%m-%dT%H:%M:%S", gmtime(now)) + f".{int(now % 1 * 1000):03}Z",
            "level": PRIORITY_NAMES[priority],
            "ident": self.ident,
            "pid": os.getpid(),
            "message": text,
        }
        if fields:
            record.update(fields)
        return json.dumps(record, ensure_ascii=True)


def stderr_line(text: str) -> None:
    """Say on stderr what happened before there was a log."""
    print(text, file=sys.stderr, flush=True)
