"""Redis itself, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import redis
from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.services import PASSWORD, Service, program


@cache
def server() -> Service:
    """A server that wants a password and writes no file."""
    service = Service("redis", "redis")
    service.command = (
        program("redis-server"), "--port", str(service.port), "--bind", "127.0.0.1", "--save", "",
        "--appendonly", "no", "--requirepass", PASSWORD, "--dir", service.folder,
    )  # fmt: skip
    return service


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """A key for each of ENTRIES."""
    service = server()
    service.start()
    url = f"redis://:{PASSWORD}@127.0.0.1:{service.port}/0"

    def fill(entries: Entries) -> None:
        with closing(redis.Redis.from_url(url)) as client:
            client.flushdb()
            client.mset({b"mail:" + key: value for key, value in entries.items()})

    def start() -> None:
        service.start()
        fill(ENTRIES)  # it forgets all when it ends

    fill(ENTRIES)
    yield Filled(f"{url}?key=mail:%s", fill, service.stop, start, service.pause, service.resume)
    service.stop()
