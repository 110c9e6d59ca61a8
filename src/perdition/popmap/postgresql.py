"""PostgreSQL, by psycopg 3.

The query goes through libpq's own calls, since psycopg's cursors wait for an answer without end.
2.2 quotes the column of the user and nothing else: the table ``tblPerdition`` is ``tblperdition``.
"""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg
from psycopg import pq

from perdition.popmap.base import is_ready
from perdition.popmap.sql import TIMEOUT, SqlMap


class Map(SqlMap):
    """See `perdition.popmap.sql`."""

    DEFAULTS = ("localhost", "", "dbperdition", *SqlMap.DEFAULTS[3:])
    PARAMETER = "$1"
    ERRORS = (psycopg.Error, OSError, ValueError)

    def _cased(self, field: str, name: str) -> str:
        return name if field == "key" else name.lower()

    def _connect(self, host: str) -> Any:
        fields = self.fields
        return psycopg.connect(
            host=host,
            port=int(fields["port"] or 0) or None,
            dbname=fields["database"],
            user=fields["user"],
            password=fields["password"],
            autocommit=True,
            client_encoding="utf8",
            connect_timeout=TIMEOUT,
            options=f"-c statement_timeout={TIMEOUT * 1000}",
            tcp_user_timeout=TIMEOUT * 1000,
        )

    def _row(self, key: str) -> Any:
        """The first row, in TIMEOUT; nothing is prepared, so that a pooler in between may be."""
        wire = self._connection.pgconn
        deadline = time.monotonic() + TIMEOUT
        wire.send_query_params(self.query.encode(), [key.encode()])
        while wire.flush():
            _wait(wire.socket, select.POLLIN | select.POLLOUT, deadline)
            wire.consume_input()
        row = None
        while True:
            while wire.is_busy():
                _wait(wire.socket, select.POLLIN, deadline)
                wire.consume_input()
            result = wire.get_result()
            if result is None:
                return row
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise psycopg.errors.error_from_result(result)
            if result.ntuples:
                values = (result.get_value(0, column) for column in range(result.nfields))
                row = [None if value is None else value.decode() for value in values]


def _wait(descriptor: int, events: int, deadline: float) -> None:
    if not is_ready(descriptor, deadline - time.monotonic(), events):
        raise TimeoutError(f"no answer within {TIMEOUT} s")
