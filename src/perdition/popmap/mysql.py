"""MySQL and MariaDB, by PyMySQL."""

from __future__ import annotations

from typing import Any

import pymysql

from perdition.popmap.sql import TIMEOUT, SqlMap


class Map(SqlMap):
    """See `perdition.popmap.sql`."""

    QUOTE = "`"
    ERRORS = (pymysql.Error, OSError, ValueError)

    def _connect(self, host: str) -> Any:
        fields = self.fields
        return pymysql.connect(
            host=host,
            unix_socket=host if host.startswith("/") else None,
            port=int(fields["port"] or 0) or 3306,
            database=fields["database"],
            user=fields["user"],
            password=fields["password"],
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            write_timeout=TIMEOUT,
        )
