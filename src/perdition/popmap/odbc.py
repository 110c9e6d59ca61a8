"""Whatever ODBC has a driver for; the database field is the name of the data source (DSN).

Time limits are asked for, but a driver may have none of its own while a server is silent: see
`perdition.popmap.threads`.
"""

from __future__ import annotations

import re
from typing import Any

import pyodbc

from perdition.popmap.sql import TIMEOUT, SqlMap

_UPPER, _LOWER = 1, 2  # ODBC's SQL_IC_UPPER and SQL_IC_LOWER


class Map(SqlMap):
    """See `perdition.popmap.sql`; host and port are those of the data source.

    How names are quoted, and what becomes of one without quotes, the driver says.
    """

    PARAMETER = "?"
    ERRORS = (pyodbc.Error, OSError, ValueError)
    _case = 0

    def _connect(self, host: str) -> Any:
        fields = self.fields
        words = {"DSN": fields["database"], "UID": fields["user"], "PWD": fields["password"]}
        text = ";".join(f"{name}={quoted_value(value)}" for name, value in words.items() if value)
        connection = pyodbc.connect(text, autocommit=True, timeout=TIMEOUT)
        try:
            connection.timeout = TIMEOUT
        except pyodbc.Error:
            pass  # a driver that has no such bound has its own in odbc.ini
        self.QUOTE = str(connection.getinfo(pyodbc.SQL_IDENTIFIER_QUOTE_CHAR)).strip()
        self._case = connection.getinfo(pyodbc.SQL_IDENTIFIER_CASE)
        self.query, self._keys = self._bound()
        return connection

    def _cased(self, field: str, name: str) -> str:
        if self._case == _LOWER:
            return name.lower()
        return name.upper() if self._case == _UPPER else name


def quoted_value(value: str) -> str:
    """A value of a connection string: in braces only where it must, not all drivers take them."""
    if re.fullmatch(r"[^\[\]{}(),;?*=!@\s]+", value):
        return value
    return "{" + value.replace("}", "}}") + "}"
