"""What a map's test gives so that the one battery of `test_contract` can run over it.

One file a kind of map holds a context manager that starts the map's real part (a file, a database,
a service) on free ports in a temporary folder and yields a `Filled`. It is registered in
`test_contract.MAPS` by the kind's name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from perdition.popmap.base import Query

Entries = dict[bytes, bytes]  # key -> value as a flat popmap has it: [user@]host[:port]

# What every map is filled with; all keys and values that the contract asks for.
ENTRIES: Entries = {
    b"jo": b"mail1.example",
    b"an@example.org": b"an@mail2.example:1143",
    b"port": b"mail3.example:imap",
    b"v6": b"[2001:db8::1]:144",
    "jürgen".encode(): b"mail4.example:1",
    b"o'hara": b"mail5.example",
    b"two words": b"mail6.example",
}

# Keys that must find nothing, whatever they mean to the map's own language.
INERT: tuple[bytes, ...] = (
    b"nobody", b"*", b"%", b"_o", b"j*", b".*", b"' OR '1'='1", b"x' UNION SELECT 'a','b','c' -- ",
    b'" OR ""="', b"\\", b"\\' OR 1=1 -- ", b")(uid=*", b"*)(uid=*))(|(uid=*", b"jo\x00", b"\x00",
    b"jo\n", b"\r\nGET jo", b"$(id)", b"`id`", b";ls", b"..", b"../jo", b"a" * 1000, b"a" * 2000,
    b"\xff\xfe", b"jo ", b" jo", b"JO", b"-h", b"--help",
)  # fmt: skip


@dataclass
class Filled:
    """A map's real part, filled with ENTRIES, and what may be done to it."""

    option: str  # map_library_opt
    fill: Callable[[Entries], None]  # replace the content, as an administrator would
    stop: Callable[[], None] | None = None  # take the service away (kill it, move the file)
    start: Callable[[], None] | None = None  # bring it back
    pause: Callable[[], None] | None = None  # let the service hang: it listens and says nothing
    resume: Callable[[], None] | None = None  # let it go on
    lacks: frozenset[bytes] = frozenset()  # of ENTRIES, what the service can't hold
    same: frozenset[bytes] = frozenset()  # of INERT, what the service itself takes for a key


Context = Callable[[Path], AbstractContextManager[Filled]]  # called with an empty folder


def query(key: bytes) -> Query:
    """A query as a session makes it."""
    return Query(key, b"@", ("192.0.2.1", 40000), ("192.0.2.2", 143))


def columns(entries: Entries) -> list[tuple[str, str, str, str]]:
    """Entries as rows of a table: key, server, port, user."""
    rows = []
    for key, value in entries.items():
        user, _, server = value.decode().rpartition("@")
        host, colon, port = server.rpartition(":")
        if not colon or host.endswith("]") != server.startswith("["):
            host, port = server, ""
        rows.append((key.decode(), host.strip("[]"), port, user))
    return rows
