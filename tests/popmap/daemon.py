"""A daemon that speaks 2.2's datagrams, see `battery`."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled


class Service:
    """Answers from `entries`; `asked` holds the questions as they came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: Entries = {}
        self.asked: list[bytes] = []
        self._sock: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._awake = threading.Event()
        self.resume()

    def fill(self, entries: Entries) -> None:
        self.entries = entries

    def start(self) -> None:
        if self._sock is None:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.bind(str(self.path))
            self.path.chmod(0o666)
            self._thread = threading.Thread(target=self._serve, args=(self._sock,))
            self._thread.start()

    def stop(self) -> None:
        if self._sock is not None and self._thread is not None:
            self._sock.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._sock.close()
            self._sock = None
            os.unlink(self.path)

    def pause(self) -> None:
        """Answer nobody."""
        self._awake.clear()

    def resume(self) -> None:
        self._awake.set()

    def _serve(self, sock: socket.socket) -> None:
        while True:
            data, sender = sock.recvfrom(65536)
            if not data:
                return
            self.asked.append(data)
            self._awake.wait(10)
            size = int.from_bytes(data[24:26], "big")
            value = self.entries.get(data[26 : 26 + size])
            user, _, server = (value or b"").rpartition(b"@")
            host, _, port = server.partition(b":") if server[:1] != b"[" else _v6(server)
            strings = b"".join(struct.pack(">H", len(s)) + s for s in (user, host, port))
            head = struct.pack(">IHHHH", 0x07070707, 1, 2, 24 + len(strings), 0) + bytes(12)
            with suppress(OSError):
                sock.sendto(head + strings, sender)


def _v6(server: bytes) -> tuple[bytes, bytes, bytes]:
    host, _, port = server[1:].partition(b"]")
    return host, b"", port[1:]


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A daemon that knows ENTRIES; to it, as to 2.2, a user it does not know is an error."""
    service = Service(folder / "socket")
    service.fill(ENTRIES)
    service.start()
    try:
        yield Filled(
            f"{service.path}:1:1", service.fill, service.stop, service.start, service.pause,
            service.resume,
        )  # fmt: skip
    finally:
        service.stop()
