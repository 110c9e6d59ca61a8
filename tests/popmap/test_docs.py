"""Every example in docs/popmaps.md is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.popmap.battery import Entries, query
from tests.popmap.http import answer, requests
from tests.popmap.lookup_services import Service as Talker
from tests.popmap.services import PASSWORD
from tests.popmap.test_contract import driver
from tests.servers.daemon import BIN
from tests.servers.ports import end, wait_for

from perdition.popmap import registry
from perdition.popmap.base import route_of

TEXT = (ROOT / "docs/popmaps.md").read_text()
SECTIONS = {
    section.split("\n", 1)[0]: section
    for section in TEXT.split("\n## ")[1:]
    if "    map_library " in section
}
# Kinds whose example is whole: with it alone the user ann has the server 127.0.0.1:1143.
WHOLE = ("popmap", "gdbm", "bdb", "cdb", "posix_regex", "sqlite", "command")


def test_every_kind_is_there() -> None:
    assert SECTIONS.keys() == registry.KINDS.keys()


def block(section: str, kind: str) -> str | None:
    found = re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    return found[1] if found else None


def option(section: str) -> str:
    found = re.search(r"^    map_library_opt (.*)$", section, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("kind", sorted(SECTIONS))
def test_the_options_are_understood(kind: str, tmp_path: Path) -> None:
    driver(kind)
    section = SECTIONS[kind]
    assert f"    map_library {kind}\n" in section
    registry.map_class(kind)(option(section).replace("FOLDER", str(tmp_path)))


@pytest.mark.parametrize("kind", WHOLE)
def test_the_example_works(kind: str, tmp_path: Path) -> None:
    driver(kind)
    section = SECTIONS[kind].replace("FOLDER", str(tmp_path))
    flat = block(SECTIONS["popmap"], "popmap")
    assert flat
    (tmp_path / "popmap").write_text(flat.replace("FOLDER", str(tmp_path)))
    for language, name, mode in (("regex", "popmap.re", 0o644), ("script", "where", 0o755)):
        if text := block(section, language):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(mode)
    if command := block(section, "sh"):
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        subprocess.run(["sh", "-e", "-c", command], check=True, timeout=20, env={"PATH": path})
    popmap = registry.make(kind, option(section))
    assert popmap.lookup(query(b"ann")) == route_of(b"127.0.0.1:1143")
    assert popmap.lookup(query(b"nobody")) is None
    popmap.close()


# -- examples that need a server: what stands there is done there, at its port --------------------


def statements(kind: str) -> list[str]:
    text = block(SECTIONS[kind], kind)
    assert text
    return text.split(";\n")[:-1]


@contextmanager
def mysql(_: Path) -> Iterator[str]:
    from tests.popmap import mysql  # noqa: PLC0415 - each needs its driver

    server = mysql.server()
    server.start()
    with closing(mysql.root(server)) as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE DATABASE IF NOT EXISTS example", "USE example", *statements("mysql"),
            "GRANT SELECT ON example.* TO perdition@'127.0.0.1'",
        ):  # fmt: skip
            cursor.execute(statement)
        yield (
            option(SECTIONS["mysql"])
            .replace("db1.example.org,db2.example.org:3306", f"127.0.0.1:{server.port}")
            .replace("dbPerdition", "example").replace("secret", PASSWORD)
        )  # fmt: skip
        cursor.execute("DROP DATABASE example")


@contextmanager
def postgresql(_: Path) -> Iterator[str]:
    from tests.popmap import postgresql  # noqa: PLC0415

    server = postgresql.server()
    server.start(lambda: postgresql.ready(server))
    with postgresql.admin(server, "dbperdition") as connection:
        for statement in (*statements("postgresql"), "GRANT SELECT ON account TO perdition"):
            connection.execute(statement.encode())
        yield (
            option(SECTIONS["postgresql"])
            .replace("db.example.org:5432", f"127.0.0.1:{server.port}").replace("secret", PASSWORD)
        )  # fmt: skip
        connection.execute("DROP TABLE account")


@contextmanager
def odbc(folder: Path) -> Iterator[str]:
    from tests.popmap.odbc import data_source  # noqa: PLC0415

    ini = block(SECTIONS["odbc"], "odbc")
    assert ini
    head, *lines = ini.replace("FOLDER", str(folder)).splitlines()
    assert head == "[dbPerdition]"
    words = dict(line.split(" = ") for line in lines)
    sql = ";\n".join([*statements("mysql"), ""])
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, words["Database"], sql], check=True, timeout=20)
    with data_source(folder, **words) as dsn:
        yield option(SECTIONS["odbc"]).replace("dbPerdition", dsn)


@contextmanager
def ldap(_: Path) -> Iterator[str]:
    from tests.popmap import ldap  # noqa: PLC0415

    server = ldap.server()
    server.start()
    text = block(SECTIONS["ldap"], "ldif")
    assert text
    rows = [
        line.split(": ") for line in text.replace("dc=example,dc=org", "dc=nodomain").splitlines()
    ]
    name, record = rows[0][1], [(word, value.encode()) for word, value in rows[1:]]
    connection = ldap.admin(server)
    connection.add_s(name, record)
    yield (
        option(SECTIONS["ldap"])
        .replace("ldap1.example.org ldap2.example.org", f"127.0.0.1:{server.port}")
        .replace("dc=example,dc=org", "dc=nodomain").replace("cn=reader", "cn=admin")
        .replace("dc=example%2cdc=org", "dc=nodomain").replace("secret", PASSWORD)
    )  # fmt: skip
    connection.delete_s(name)
    connection.unbind_s()


@contextmanager
def redis(_: Path) -> Iterator[str]:
    from tests.popmap import redis  # noqa: PLC0415

    with redis.filled(_) as real:
        text = block(SECTIONS["redis"], "redis")
        assert text
        where = real.option.partition("?")[0]
        client = import_module("redis").Redis.from_url(where)
        with closing(client):
            client.execute_command(*text.split())
        host = where.rpartition("@")[2]
        yield (
            option(SECTIONS["redis"])
            .replace("secret", PASSWORD).replace("127.0.0.1:6379/0", host)
        )  # fmt: skip


@contextmanager
def nis(_: Path) -> Iterator[str]:
    from tests.popmap import nis  # noqa: PLC0415

    with nis.filled(_):
        text = block(SECTIONS["nis"], "nis")
        assert text
        done = nis.domain().run("sh", "-e", "-c", text)
        assert done.returncode == 0, done.stderr
        yield option(SECTIONS["nis"])


@contextmanager
def http(_: Path) -> Iterator[str]:
    text = block(SECTIONS["http"], "json")
    assert text
    assert json.loads(text)

    def talk(sock: socket.socket, _: Entries) -> None:
        for target, _headers in requests(sock):
            found = target == "/where?user=ann"
            answer(sock, "200 OK" if found else "404 Not Found", text.encode() if found else b"")

    with talking(talk) as port:
        url = option(SECTIONS["http"])
        yield url.replace("https://lookup.example.org", f"http://127.0.0.1:{port}")


@contextmanager
def tcp(_: Path) -> Iterator[str]:
    text = block(SECTIONS["tcp"], "socketmap")
    assert text
    question, told = text.encode().splitlines()

    def talk(sock: socket.socket, _: Entries) -> None:
        while asked := sock.recv(1000):
            sock.sendall(told if asked == question else b"9:NOTFOUND ,")

    with talking(talk) as port:
        yield option(SECTIONS["tcp"]).replace("8461", str(port))


@contextmanager
def talking(talk: object) -> Iterator[int]:
    service = Talker(talk)  # type: ignore[arg-type]
    service.start()
    try:
        yield service.port
    finally:
        service.stop()


@contextmanager
def daemon(folder: Path) -> Iterator[str]:
    text = block(SECTIONS["daemon"], "daemon")
    assert text
    path = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, "-c", text.replace("/var/run/perdition.db", str(path))]
    )
    try:
        wait_for(path.exists, "the daemon does not listen")
        yield option(SECTIONS["daemon"]).replace("/var/run/perdition.db", str(path))
    finally:
        end(process)


SERVED = {
    each.__name__: each for each in (mysql, postgresql, odbc, ldap, redis, nis, http, tcp, daemon)
}


@pytest.mark.parametrize("kind", SERVED)
def test_the_example_works_at_its_server(kind: str, tmp_path: Path) -> None:
    driver(kind)
    with SERVED[kind](tmp_path) as words:
        popmap = registry.make(kind, words)
        assert popmap.lookup(query(b"ann")) == route_of(b"127.0.0.1:1143")
        if kind != "daemon":
            assert popmap.lookup(query(b"nobody")) is None
        popmap.close()


def test_no_example_is_left_out() -> None:
    assert {*WHOLE, *SERVED} == registry.KINDS.keys()
