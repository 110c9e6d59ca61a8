"""Whatever ODBC has a driver for; the database field is the name of the data source (DSN)."""

from __future__ import annotations

from typing import Any

import pyodbc

from perdition.popmap.sql import TIMEOUT, SqlMap


class Map(SqlMap):
    """See `perdition.popmap.sql`; host and port are those of the data source."""

    PARAMETER = "?"
    ERRORS = (pyodbc.Error, OSError, ValueError)

    def _connect(self, host: str) -> Any:
        fields = self.fields
        words = {"DSN": fields["database"], "UID": fields["user"], "PWD": fields["password"]}
        text = ";".join(
            f"{name}={{{value.replace('}', '}}')}}}" if name != "DSN" else f"{name}={value}"
            for name, value in words.items()
            if value
        )
        return pyodbc.connect(text, autocommit=True, timeout=TIMEOUT)
