"""Maps in files: a writer at work, broken files, values of odd kinds, queries without an end."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.popmap.test_contract import driver

from perdition.errors import MapError
from perdition.popmap import registry
from perdition.popmap.base import Query, Stale, route_of
from perdition.popmap.lookups import PENDING, Lookups, Terms

ANN = Query(b"ann")


def sqlite_file(path: Path, server: object = "mail1.example") -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE popmap (user PRIMARY KEY, servername, port)")
        connection.execute("INSERT INTO popmap VALUES ('ann', ?, NULL)", (server,))


def test_a_writer_of_sqlite_is_waited_for_off_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "popmap"
    sqlite_file(path)

    async def ask() -> tuple[object, object, float]:
        lookups = Lookups(registry.make("sqlite", str(path)), lambda: None, Terms(), print)  # type: ignore[arg-type, return-value]
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            writer.execute("UPDATE popmap SET servername = 'mail2.example'")
            started = time.monotonic()
            first = lookups.ready(ANN)
            took = time.monotonic() - started
            asked = asyncio.create_task(lookups.ask(ANN))
            await asyncio.sleep(0.2)
            assert not asked.done()
            writer.execute("COMMIT")
            found = await asked
        lookups.close()
        return first, found, took

    first, found, took = asyncio.run(ask())
    assert (first, found) == (PENDING, route_of(b"mail2.example"))
    assert took < 0.1


def test_a_writer_of_sqlite_that_never_ends_is_a_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdition.popmap.sqlite.BUSY", 0.1)
    path = tmp_path / "popmap"
    sqlite_file(path)
    popmap = registry.make("sqlite", str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Stale):
            popmap.lookup(ANN)
        with pytest.raises(MapError, match="database is locked"):
            popmap.refresh()
    assert popmap.lookup(ANN) == route_of(b"mail1.example")
    popmap.close()


def test_a_query_without_an_end_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "popmap"
    sqlite_file(path)
    endless = "WITH RECURSIVE n(i) AS (VALUES(:key) UNION ALL SELECT i + 1 FROM n)"
    popmap = registry.make("sqlite", f"{path} {endless} SELECT max(i) FROM n")
    started = time.monotonic()
    with pytest.raises(MapError, match="the query takes too long; it needs an index"):
        popmap.lookup(ANN)
    assert time.monotonic() - started < 2
    popmap.close()


def test_values_of_sqlite_that_are_blobs(tmp_path: Path) -> None:
    path = tmp_path / "popmap"
    sqlite_file(path, b"mail1.example:143")
    popmap = registry.make("sqlite", str(path))
    assert popmap.lookup(ANN) == route_of(b"mail1.example:143")
    popmap.close()


def test_a_file_rewritten_at_once_and_of_the_same_size(tmp_path: Path) -> None:
    """Its time of modification put back, as a copy by cp -p does."""
    path, maps = tmp_path / "popmap", {}
    for host in (b"mail1", b"mail2"):
        maps[host] = cdb_of({b"ann": host})
    path.write_bytes(maps[b"mail1"])
    before = path.stat()
    popmap = registry.make("cdb", str(path))
    assert popmap.lookup(ANN) == route_of(b"mail1")
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_bytes(maps[b"mail2"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert popmap.lookup(ANN) == route_of(b"mail2")
    popmap.close()


def test_a_text_rewritten_at_once_and_of_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "popmap"
    path.write_text("ann:mail1\n")
    before = path.stat()
    popmap = registry.make("popmap", str(path))
    popmap.open()
    assert popmap.lookup(ANN) == route_of(b"mail1")
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_text("ann:mail2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Stale):
        popmap.lookup(ANN)
    popmap.refresh()
    assert popmap.lookup(ANN) == route_of(b"mail2")


def cdb_of(pairs: dict[bytes, bytes], slots: int = 0) -> bytes:
    """A cdb; with `slots`, its tables claim to be that large and are full of wrong entries."""
    records, tables = b"", [[] for _ in range(256)]  # type: ignore[var-annotated]
    for key, value in pairs.items():
        digest = 5381
        for byte in key:
            digest = (digest * 33 & 0xFFFFFFFF) ^ byte
        tables[digest % 256].append((digest, 2048 + len(records)))
        records += struct.pack("<II", len(key), len(value)) + key + value
    head, tail = b"", b""
    for table in tables:
        at = 2048 + len(records) + len(tail)
        head += struct.pack("<II", at, slots or len(table))
        for entry in table:
            tail += struct.pack("<II", *entry)
    return head + records + tail + struct.pack("<II", 1, 2048) * min(slots, 20_000)


@pytest.mark.parametrize("slots", [20_000, 0xFFFFFFFF])
def test_a_cdb_full_of_nonsense_takes_no_time(tmp_path: Path, slots: int) -> None:
    path = tmp_path / "popmap"
    path.write_bytes(cdb_of({}, slots))
    popmap = registry.make("cdb", str(path))
    started = time.monotonic()
    with pytest.raises(MapError, match=r"not a cdb|ends too early"):
        popmap.lookup(ANN)
    assert time.monotonic() - started < 1
    popmap.close()


def file_of(kind: str, path: Path, pairs: dict[bytes, bytes]) -> None:
    """Make a map's file with some users."""
    if kind == "sqlite":
        sqlite_file(path)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM popmap")
            rows = [(key.decode(), value.decode()) for key, value in pairs.items()]
            connection.executemany("INSERT INTO popmap VALUES (?, ?, NULL)", rows)
    elif kind == "cdb":
        path.write_bytes(cdb_of(pairs))
    else:
        module = __import__(f"perdition.popmap.{kind}", fromlist=["write"])
        assert not list(module.write(str(path), iter(pairs.items())))


@pytest.mark.parametrize("kind", ["bdb", "gdbm", "cdb", "sqlite"])
def test_overwritten_files_crash_nothing(kind: str) -> None:
    """Some hundred files with bytes of chance in them: no crash, no hang, no traceback."""
    driver(kind)
    done = subprocess.run(
        [sys.executable, "-m", "tests.popmap.corruptions", kind, "150"], capture_output=True,
        timeout=18, check=False, cwd=ROOT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    outcomes = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert outcomes.get("slow", 0) == outcomes.get("endless", 0) == 0
    assert outcomes["right"] > outcomes["trouble"] > 0


@pytest.mark.parametrize("kind", ["bdb", "gdbm", "cdb", "sqlite"])
def test_damaged_files_are_a_trouble_and_never_a_missing_user(tmp_path: Path, kind: str) -> None:
    """Each file cut short anywhere, or overwritten: the right answer or an error."""
    path = tmp_path / "popmap"
    pairs = {b"user%d" % number: b"mail%d.example" % number for number in range(400)}
    file_of(kind, path, pairs)
    whole = path.read_bytes()
    troubles = 0
    for part in range(10):
        path.write_bytes(whole[: len(whole) * part // 10])
        popmap = registry.make(kind, str(path))
        for key, value in list(pairs.items())[:40]:
            try:
                assert popmap.lookup(Query(key)) == route_of(value)
            except MapError:
                troubles += 1
        popmap.close()
    assert troubles >= min(len(pairs), 40)


def test_a_berkeley_db_of_numbered_records_is_a_trouble(tmp_path: Path) -> None:
    try:
        from berkeleydb import db  # noqa: PLC0415
    except ImportError:
        from bsddb3 import db  # noqa: PLC0415
    path = tmp_path / "popmap"
    database = db.DB()
    database.open(str(path), None, db.DB_RECNO, db.DB_CREATE, 0o600)
    database.append(b"mail1.example")
    database.close()
    popmap = registry.make("bdb", str(path))
    with pytest.raises(MapError):
        popmap.lookup(ANN)
    popmap.close()
