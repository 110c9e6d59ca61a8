"""PostgreSQL, by psycopg 3."""

from __future__ import annotations

from typing import Any

import psycopg

from perdition.popmap.sql import TIMEOUT, SqlMap


class Map(SqlMap):
    """See `perdition.popmap.sql`."""

    DEFAULTS = ("localhost", "", "dbperdition", *SqlMap.DEFAULTS[3:])
    ERRORS = (psycopg.Error, OSError, ValueError)

    def _connect(self, host: str) -> Any:
        fields = self.fields
        return psycopg.connect(
            host=host,
            port=fields["port"] or None,
            dbname=fields["database"],
            user=fields["user"],
            password=fields["password"],
            autocommit=True,
            prepare_threshold=None,  # so that a pooler in between does no harm
            connect_timeout=TIMEOUT,
            options=f"-c statement_timeout={TIMEOUT * 1000}",
            tcp_user_timeout=TIMEOUT * 1000,
        )
