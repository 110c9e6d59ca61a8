"""A service that answers with JSON, see `battery`; nginx's protocol is in test_service_maps."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.lookup_services import Service


def answer(sock: socket.socket, status: str, body: bytes, *headers: str) -> None:
    head = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}"))
    sock.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)


def requests(sock: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    """The target and headers of each request that comes."""
    with sock.makefile("rb") as reader:
        while line := reader.readline().decode():
            headers = {}
            while header := reader.readline().decode("latin-1").strip():
                name, _, value = header.partition(": ")
                headers[name.lower()] = value
            yield line.split(" ")[1], headers


def talk(sock: socket.socket, entries: Entries) -> None:
    """Answer ``/who?user=KEY``."""
    for target, _ in requests(sock):
        asked = parse_qs(urlsplit(target).query, errors="surrogateescape").get("user", [""])[0]
        value = entries.get(asked.encode("utf-8", "surrogateescape"))
        if value is None:
            answer(sock, "404 Not Found", b"")
        else:
            answer(sock, "200 OK", json.dumps({"value": value.decode()}).encode())


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """A service that knows ENTRIES."""
    service = Service(talk)
    service.fill(ENTRIES)
    service.start()
    try:
        url = f"http://127.0.0.1:{service.port}/who?user=%s"
        yield Filled(url, service.fill, service.stop, service.start, service.pause, service.resume)
    finally:
        service.stop()
