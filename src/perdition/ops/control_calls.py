"""How perditionctl talks: it finds the daemons of a host by their sockets and asks all at once.

The protocol is told in `perdition.server.desk`. Invariant: it waits for nobody longer than it is
told to, and one daemon that hangs takes nothing from the answers of the others.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdition.places import CONTROL_SUFFIX

_CHUNK = 262_144  # bytes
_ANSWER = 128 * 1_048_576  # bytes of one daemon


@dataclass(slots=True)
class Answer:
    """What one daemon said; `error` is empty when it did what was asked."""

    socket: str
    ident: str = ""
    pid: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)  # workers that gave no answer
    more: bool = False  # there are rows beyond those
    error: str = ""

    @property
    def name(self) -> str:
        return self.ident or os.path.basename(self.socket)


def find(folder: str) -> list[str]:
    """Return the sockets in a folder; none if there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in names if name.endswith(CONTROL_SUFFIX)]


def ask(
    paths: Iterable[str], request: dict[str, object], seconds: float, fds: Sequence[int] = ()
) -> list[Answer]:
    """Send a request to each socket and return the answers of the daemons that live."""
    line = json.dumps(request).encode() + b"\n"
    calls = [_Call(path) for path in paths]
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for call in calls:
            if call.begin(line, fds):
                selector.register(call.sock, selectors.EVENT_READ, call)
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.data.readable():
                    selector.unregister(key.fileobj)
    for call in calls:
        call.end(seconds)
    return [call.answer for call in calls if not call.nobody]


class _Call:
    """One connection."""

    def __init__(self, path: str) -> None:
        self.answer = Answer(path)
        self.nobody = False  # the socket was left behind
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._data = bytearray()
        self._ended = False

    def begin(self, line: bytes, fds: Sequence[int]) -> bool:
        """Connect and ask; False: that is all there will be."""
        self.sock.setblocking(False)
        try:
            self.sock.connect(self.answer.socket)
            socket.send_fds(self.sock, [line], fds)
        except (ConnectionRefusedError, FileNotFoundError):
            self.nobody = True
        except PermissionError:
            self.answer.error = "permission denied: ask as root, or as the daemon's user"
        except BlockingIOError:
            self.answer.error = "it takes no more requests: it hangs, or starts"
        except OSError as error:
            self.answer.error = error.strerror or str(error)
        else:
            return True
        self._ended = True
        return False

    def readable(self) -> bool:
        """Take what is there; True: that was the end."""
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._data += data
        lines = self._data.split(b"\n")
        self._data = lines.pop()
        try:
            for line in lines:
                self._heard(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            data = b""
        if self._ended:
            return True
        if not data or len(self._data) > _ANSWER:
            self._ended = True
            self.answer.error = "it hung up before its answer was whole"
        return self._ended

    def _heard(self, row: dict[str, Any]) -> None:
        answer = self.answer
        if row.get("end"):
            self._ended = True
            answer.ident, answer.pid = str(row["ident"]), int(row["pid"])
            answer.late = [int(pid) for pid in row["late"]]
            answer.error = str(row.get("error", ""))
        elif "status" in row:
            answer.status = dict(row["status"])
        else:
            for each in row["rows"]:
                if each.get("more"):
                    answer.more = True
                else:
                    answer.rows.append({**each, "worker": row["worker"]})

    def end(self, seconds: float) -> None:
        self.sock.close()
        if not self._ended:
            self.answer.error = f"no answer within {seconds:g} s"
