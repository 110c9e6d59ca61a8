"""A syslog daemon's ears: takes datagrams and keeps them as the lines of /var/log/mail.log."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

from tests.servers.ports import wait_for

_RECORD = re.compile(rb"<(\d+)>(\w{3} [ \d]\d \d\d:\d\d:\d\d) (.*)\n?\0?", re.DOTALL)


class Syslog:
    """Records as they come in; `path` is the socket. A context that ends with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[tuple[int, str, str]] = []  # priority, time, ident and text
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Syslog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while record := self._socket.recv(65536):
            match = _RECORD.fullmatch(record)
            assert match is not None, record
            priority, when, text = match.groups()
            self.records.append((int(priority), when.decode(), text.decode()))

    @property
    def texts(self) -> list[str]:
        """What was said, without time and ident."""
        return [text.partition(": ")[2] for _, _, text in list(self.records)]

    @property
    def file(self) -> str:
        """The log file that a syslog daemon would have written."""
        return "".join(f"{when} dmz {text}\n" for _, when, text in list(self.records))

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Return the texts that match a regular expression once there are `count` of them."""
        compiled = re.compile(pattern)

        def matching() -> list[str]:
            return [text for text in self.texts if compiled.search(text)]

        wait_for(
            lambda: len(matching()) >= count,
            f"{len(matching())} of {count} lines match {pattern!r}",
        )
        return matching()
