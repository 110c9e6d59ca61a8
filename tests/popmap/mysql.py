"""MariaDB, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import pymysql
from tests.popmap.battery import ENTRIES, Entries, Filled, columns
from tests.popmap.services import PASSWORD, Service, program


@cache
def server() -> Service:
    """A server with a database, a table and a user as 2.2 wants them."""
    service = Service("mariadb", "mysql")
    data = service.folder / "data"
    service.run(
        program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db",
        "--auth-root-authentication-method=normal", "--innodb-log-file-size=4M",
    )  # fmt: skip
    service.command = (
        program("mariadbd", "/usr/sbin"), "--no-defaults", f"--datadir={data}",
        f"--socket={service.folder}/socket", f"--port={service.port}", "--bind-address=127.0.0.1",
        f"--pid-file={service.folder}/pid", "--innodb-log-file-size=4M",
        "--innodb-buffer-pool-size=8M", "--skip-name-resolve",
    )  # fmt: skip
    service.start()
    with closing(root(service)) as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE DATABASE dbPerdition CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
            "CREATE TABLE dbPerdition.tblPerdition (user varchar(128) PRIMARY KEY, "
            "servername varchar(255) NOT NULL, port varchar(8), account varchar(64))",
            f"CREATE USER perdition@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            "GRANT SELECT ON dbPerdition.* TO perdition@'127.0.0.1'",
        ):
            cursor.execute(statement)
    return service


def root(service: Service) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(
        unix_socket=f"{service.folder}/socket", user="root", autocommit=True, charset="utf8mb4"
    )


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """The table with ENTRIES; the first host named is none."""
    service = server()
    service.start()

    def fill(entries: Entries) -> None:
        with closing(root(service)) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM dbPerdition.tblPerdition")
            cursor.executemany(
                "INSERT INTO dbPerdition.tblPerdition VALUES (%s, %s, %s, %s)", columns(entries)
            )

    fill(ENTRIES)
    query = "SELECT servername, port, account FROM tblPerdition WHERE user = :key"
    yield Filled(
        f"127.0.0.9,127.0.0.1:{service.port}:dbPerdition:tblPerdition:perdition:{PASSWORD} {query}",
        fill, service.stop, service.start, service.pause, service.resume,
    )  # fmt: skip
    service.start()
