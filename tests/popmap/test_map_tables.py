"""The commands that make an empty popmap: what they make is what the map's defaults read."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.popmap.battery import query
from tests.popmap.services import PASSWORD
from tests.popmap.test_contract import driver
from tests.servers.daemon import BIN

from perdition.popmap import registry
from perdition.popmap.base import Popmap, route_of


def run(kind: str, *words: str | Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [BIN / f"perditiondb_{kind}_makedb", *words], capture_output=True, timeout=30, check=False,
        text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def finds_ann(popmap: Popmap) -> None:
    assert popmap.lookup(query(b"nobody")) is None
    assert popmap.lookup(query(b"ann")) == route_of(b"mail1.example:7")
    popmap.close()


def test_mysql() -> None:
    driver("mysql")
    from tests.popmap import mysql  # noqa: PLC0415 - needs the driver

    service = mysql.server()
    service.start()
    words = ("--host", f"{service.folder}/socket", "--database", "made", "--table", "t")
    for _ in range(2):  # a second time it leaves all as it is
        assert run("mysql", *words) == (0, "", "")
        with closing(mysql.root(service)) as connection, connection.cursor() as cursor:
            cursor.execute("REPLACE INTO made.t VALUES ('ann', 'mail1.example', '7')")
    finds_ann(registry.make("mysql", f"127.0.0.1:{service.port}:made:t:perdition:{PASSWORD}"))
    status, _, said = run("mysql", *words, "--user", "nobody")
    assert (status, said) == (
        255,
        "perditiondb_mysql_makedb: there is no user nobody: make it with CREATE USER first\n",
    )


def test_postgresql() -> None:
    driver("postgresql")
    from tests.popmap import postgresql  # noqa: PLC0415

    service = postgresql.server()
    service.start(lambda: postgresql.ready(service))
    where = ("--host", "127.0.0.1", "--port", str(service.port), "--admin", "admin")
    words = (*where, "--database", "made", "--table", "t")
    for _ in range(2):
        done = run("postgresql", *words, PERDITION_ADMIN_PASSWORD=PASSWORD)
        assert done == (0, "", "")
    with postgresql.admin(service, "made") as connection:
        connection.execute("INSERT INTO t VALUES ('ann', 'mail1.example', '7')")
    finds_ann(registry.make("postgresql", f"127.0.0.1:{service.port}:made:t:perdition:{PASSWORD}"))
    status, _, said = run("postgresql", *words, PERDITION_ADMIN_PASSWORD="wrong-sesame")
    assert status == 255
    assert "wrong-sesame" not in said


def sources(kind: str, folder: Path) -> tuple[dict[str, object], str, str]:
    """A data source's words, an administrator and his password."""
    if kind == "MariaDB Unicode":
        from tests.popmap import mysql  # noqa: PLC0415

        service = mysql.server()
        service.start()
        return {"Socket": f"{service.folder}/socket", "Database": "dbPerdition"}, "root", ""
    if kind == "PostgreSQL Unicode":
        from tests.popmap import postgresql  # noqa: PLC0415

        service = postgresql.server()
        service.start(lambda: postgresql.ready(service))
        where = {"Servername": "127.0.0.1", "Port": service.port, "Database": "dbperdition"}
        return where, "admin", PASSWORD
    return {"Database": folder / "made.sqlite"}, "", ""


@pytest.mark.parametrize("kind", ["SQLite3", "MariaDB Unicode", "PostgreSQL Unicode"])
def test_odbc(kind: str, tmp_path: Path) -> None:
    """``user``, a word of SQL, is a column in each of them."""
    driver("odbc")
    import pyodbc  # noqa: PLC0415
    from tests.popmap.odbc import data_source  # noqa: PLC0415

    words, admin, password = sources(kind, tmp_path)
    table = "madeByOdbc"
    with data_source(tmp_path, Driver=kind, **words) as dsn:
        for _ in range(2):
            options = ("--database", dsn, "--table", table, "--admin", admin)
            assert run("odbc", *options, PERDITION_ADMIN_PASSWORD=password) == (0, "", "")
        login = f"DSN={dsn};UID={admin};PWD={password}"
        with closing(pyodbc.connect(login, autocommit=True)) as connection:
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"INSERT INTO {table} VALUES ('ann', 'mail1.example', '7')")
        finds_ann(registry.make("odbc", f"::{dsn}:{table}:{admin}:{password}"))


def test_ldap() -> None:
    driver("ldap")
    from tests.popmap import ldap  # noqa: PLC0415

    service = ldap.server()
    service.start()
    words = ("--host", "127.0.0.1", "--port", str(service.port), "--base", "ou=made,dc=nodomain")
    for _ in range(2):
        assert run("ldap", *words, PERDITION_ADMIN_PASSWORD=PASSWORD) == (0, "", "")
    connection = ldap.admin(service)
    entry = {"objectClass": b"perditionPopmap", "uid": b"ann", "mailhost": b"mail1.example",
             "port": b"7"}  # fmt: skip
    connection.add_s("uid=ann,ou=made,dc=nodomain", list(entry.items()))
    connection.unbind_s()
    url = f"ldap://127.0.0.1:{service.port}/ou=made,dc=nodomain?username,mailhost,port?one?(uid=%s)"
    finds_ann(registry.make("ldap", url))
    assert run("ldap", *words, PERDITION_ADMIN_PASSWORD="wrong")[0] == 255


def test_ldap_is_encrypted_where_the_url_says_so(tmp_path: Path) -> None:
    """Three URLs in a process that trusts the server's authority, and in one that does not."""
    driver("ldap")
    from tests.popmap import ldap  # noqa: PLC0415

    program_text = (
        "import sys\nfrom perdition.popmap import registry\n"
        "from perdition.popmap.base import Query\n"
        "for url in sys.argv[1:]:\n"
        "    try:\n        print(registry.make('ldap', url).lookup(Query(b'jo')).servers[0].host)\n"
        "    except Exception as error:\n        print(type(error).__name__)\n"
    )
    with ldap.filled(tmp_path):
        service = ldap.server()
        rest = f"{ldap.BASE}?username,mailhost,port?one?(uid=%s)"
        plain, secure = f"127.0.0.1:{service.port}/{rest}", f"127.0.0.1:{service.port + 1}/{rest}"
        urls = [f"ldap://{plain}", f"ldap://{plain}?x-starttls", f"ldaps://{secure}"]
        said = {}
        for trusted in (True, False):
            trust = {"LDAPTLS_CACERT": f"{service.folder}/ca.pem"} if trusted else {}
            said[trusted] = subprocess.run(
                [sys.executable, "-c", program_text, *urls], capture_output=True, text=True,
                timeout=20, check=True, env={**os.environ, **trust},
            ).stdout.split()  # fmt: skip
    assert said == {True: ["mail1.example"] * 3, False: ["mail1.example", "MapError", "MapError"]}


@pytest.mark.parametrize("kind", ["mysql", "postgresql", "odbc", "ldap"])
def test_what_would_be_done_is_shown(kind: str) -> None:
    status, said, _ = run(kind, "--print")
    assert status == 0
    assert ("CREATE TABLE IF NOT EXISTS" in said) == (kind != "ldap")
    assert run(kind, "--table", "x; DROP TABLE y")[0] == 255
    assert run(kind, "--help")[0] == 0
