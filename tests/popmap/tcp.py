"""A socketmap service, see `battery`; tcp_table is in test_service_maps."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.lookup_services import Service


def socketmap(sock: socket.socket, entries: Entries) -> None:
    """Answer netstrings ``NAME KEY`` (socketmap_table(5))."""
    with sock.makefile("rb") as reader:
        while size := b"".join(iter(lambda: reader.read(1).rstrip(b":"), b"")):
            name, _, key = reader.read(int(size)).partition(b" ")
            assert reader.read(1) == b","
            value = entries.get(key) if name == b"people" else None
            answer = b"NOTFOUND " if value is None else b"OK " + value
            sock.sendall(b"%d:%s," % (len(answer), answer))


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """The map ``people`` with ENTRIES."""
    service = Service(socketmap)
    service.fill(ENTRIES)
    service.start()
    try:
        option = f"socketmap:inet:127.0.0.1:{service.port}:people"
        yield Filled(
            option, service.fill, service.stop, service.start, service.pause, service.resume
        )
    finally:
        service.stop()
