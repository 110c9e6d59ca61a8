"""What the SQL maps share: 2.2's option string, queries of one's own, connections that come back.

    HOST[,HOST...]:PORT:DATABASE:TABLE:USER:PASSWORD:SERVER COLUMN:USER COLUMN:PORT COLUMN

Fields are left out from the right; an empty port column makes a query without it. Behind a blank a
query of one's own may follow, ``SELECT ... WHERE user = :key``, which gives one to three columns:
server, port, user. Hosts are tried in turn; one that starts with ``/`` is a socket. Names of tables
and columns mean what they mean unquoted, as in 2.2; one given as ``"Name"`` is taken as it stands.
Invariant: the key is a bound parameter, never text of a query; no error shows the password.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar

from perdition.errors import MapError
from perdition.popmap.base import Popmap, Query, route_from, text_key
from perdition.route import Route

TIMEOUT = 5  # seconds for a connection and for an answer

_NAMES = ("hosts", "port", "database", "table", "user", "password", "server", "key", "port_column")
_IDENTIFIER = re.compile(r"""("?)([\w$]+)\1""")
_KEY = re.compile(r"(?<![:\w]):key\b")


class SqlMap(Popmap):
    """A table or query; who inherits knows the driver."""

    waits = True
    DEFAULTS: ClassVar[tuple[str, ...]] = (
        "localhost", "", "dbPerdition", "tblPerdition", "perdition", "perdition", "servername",
        "user", "port",
    )  # fmt: skip
    PARAMETER: ClassVar[str] = "%(key)s"  # how the driver writes a bound parameter
    QUOTE = '"'
    ERRORS: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, option: str) -> None:
        found = re.search(r"\s+(?=(select|with)\s)", option, re.IGNORECASE)
        self._free = option[found.end() :] if found else ""
        fields = (option[: found.start()] if found else option).split(":")
        if len(fields) > len(_NAMES):
            raise MapError(f"more than {len(_NAMES)} fields; they are {':'.join(_NAMES)}")
        given = fields if option and fields != [""] else []
        values = (*given, *self.DEFAULTS[len(given) :])
        self.fields = dict(zip(_NAMES, values, strict=True))
        port = self.fields["port"]
        if port and not re.fullmatch("[0-9]{1,5}", port):
            raise MapError(f"not a port: {port!r}")
        if self._free and not _KEY.search(self._free):
            raise MapError("the query does not ask for :key")
        self.query, self._keys = self._bound()
        self._connection: Any = None

    def _bound(self) -> tuple[str, int]:
        """The query in the driver's spelling, and how often it takes the key."""
        query = self._free or self._own_query()
        if "%" in self.PARAMETER:
            query = query.replace("%", "%%")
        return _KEY.subn(self.PARAMETER, query)

    def _own_query(self) -> str:
        fields = ("server", "port_column") if self.fields["port_column"] else ("server",)
        shown = ", ".join(map(self._quoted, fields))
        return f"SELECT {shown} FROM {self._quoted('table')} WHERE {self._quoted('key')} = :key"

    def _quoted(self, field: str) -> str:
        mark, parts = self.QUOTE, []
        for part in self.fields[field].split("."):
            found = _IDENTIFIER.fullmatch(part)
            if not found:
                raise MapError(f"not a name of a table or column: {self.fields[field]!r}")
            parts.append(f"{mark}{found[2] if found[1] else self._cased(field, part)}{mark}")
        return ".".join(parts)

    def _cased(self, field: str, name: str) -> str:
        """What the database makes of a name without quotes."""
        return name

    @abstractmethod
    def _connect(self, host: str) -> Any:
        """Return a new connection (DB-API 2.0) in autocommit; raises one of ERRORS."""

    def lookup(self, query: Query) -> Route | None:
        key = text_key(query)
        if key is None:
            return None
        row = self._ask(key)
        if row is None:
            return None
        server, port, user = (*("" if v is None else str(v).strip() for v in row), "", "", "")[:3]
        return route_from(user.encode(), server, "" if port == "0" else port, query.delimiter)

    def _ask(self, key: str) -> Any:
        """The first row; a kept connection that has died meanwhile is made anew once."""
        if self._connection is not None:
            try:
                return self._row(key)
            except self.ERRORS:
                self.close()
        self._connection = self._connect_to_any()
        try:
            return self._row(key)
        except self.ERRORS as error:
            self.close()
            raise self._trouble(error) from None

    def _row(self, key: str) -> Any:
        cursor = self._connection.cursor()
        try:
            if self.PARAMETER == "?":
                cursor.execute(self.query, (key,) * self._keys)
            else:
                cursor.execute(self.query, {"key": key})
            return cursor.fetchone()
        finally:
            cursor.close()

    def _connect_to_any(self) -> Any:
        for host in self.fields["hosts"].split(","):
            try:
                return self._connect(host)
            except self.ERRORS as error:
                trouble = self._trouble(error)
        raise trouble

    def _trouble(self, error: Exception) -> MapError:
        text = " ".join(str(error).split())
        password = self.fields["password"]
        return MapError(text.replace(password, "***")[:300] if password else text[:300])

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except self.ERRORS:
                pass  # it was dead already
