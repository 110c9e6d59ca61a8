"""PostgreSQL, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from tests.popmap.battery import ENTRIES, Entries, Filled, columns
from tests.popmap.services import PASSWORD, Service, program

BIN = "/usr/lib/postgresql/*/bin"


@cache
def server() -> Service:
    """A server with a database, a table and a user as 2.2 wants them."""
    service = Service("postgresql", "postgres")
    data = service.folder / "data"
    words = service.folder / "words"
    words.write_text(f"{PASSWORD}\n")
    words.chmod(0o644)
    service.run(
        program("initdb", BIN), "-D", data, "-A", "scram-sha-256", "-U", "admin",
        f"--pwfile={words}", "--no-sync", "-E", "UTF8", "--locale=C",
    )  # fmt: skip
    service.command = (
        program("postgres", BIN), "-D", data, "-p", str(service.port), "-k", service.folder,
        "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
    )  # fmt: skip
    service.start(lambda: ready(service))
    with admin(service) as connection:
        connection.execute(f"CREATE USER perdition PASSWORD '{PASSWORD}'")
        connection.execute("CREATE DATABASE dbperdition")
    with admin(service, "dbperdition") as connection:
        connection.execute(
            'CREATE TABLE tblPerdition ("user" varchar(128) PRIMARY KEY, servername char(255), '
            "port char(8), account text)"
        )
        connection.execute("GRANT SELECT ON tblPerdition TO perdition")
    return service


def admin(service: Service, database: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1", port=service.port, user="admin", password=PASSWORD, dbname=database,
        autocommit=True,
    )  # fmt: skip


def ready(service: Service) -> bool:
    """Whether it takes connections; it listens a while before."""
    try:
        admin(service).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """The table with ENTRIES."""
    service = server()

    def start() -> None:
        service.start(lambda: ready(service))

    def fill(entries: Entries) -> None:
        with admin(service, "dbperdition") as connection:
            connection.execute("DELETE FROM tblPerdition")
            connection.cursor().executemany(
                "INSERT INTO tblPerdition VALUES (%s, %s, %s, %s)", columns(entries)
            )

    start()
    fill(ENTRIES)
    query = 'SELECT servername, port, account FROM tblPerdition WHERE "user" = :key'
    yield Filled(
        f"127.0.0.1:{service.port}:dbperdition:tblPerdition:perdition:{PASSWORD} {query}",
        fill, service.stop, start, service.pause, service.resume,
    )  # fmt: skip
    start()
