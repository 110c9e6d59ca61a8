"""MySQL and MariaDB, by PyMySQL.

``localhost`` without a port of its own is the server's socket where there is one, as it is to
MySQL's own library and so to 2.2: rights are often given to ``user@localhost`` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql

from perdition.popmap.sql import TIMEOUT, SqlMap

SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")
_USUAL = 3306


class Map(SqlMap):
    """See `perdition.popmap.sql`."""

    QUOTE = "`"
    ERRORS = (pymysql.Error, OSError, ValueError)

    def _connect(self, host: str) -> Any:
        fields = self.fields
        port = int(fields["port"] or 0) or _USUAL
        if host == "localhost" and port == _USUAL:
            host = next((path for path in SOCKETS if Path(path).is_socket()), host)
        if host.startswith("/") and not Path(host).is_socket():  # PyMySQL would leave one open
            raise FileNotFoundError(f"there is no socket {host}")
        return pymysql.connect(
            host=host,
            unix_socket=host if host.startswith("/") else None,
            port=port,
            database=fields["database"],
            user=fields["user"],
            password=fields["password"],
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            write_timeout=TIMEOUT,
        )
