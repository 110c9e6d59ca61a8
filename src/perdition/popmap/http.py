"""A service asked over HTTP: nginx's ``auth_http`` protocol, or plain JSON.

    URL    ``%s`` in it is the key, percent-encoded; without it the key is the header Auth-User

The request has Auth-User, Client-IP and Auth-Method: none (no password is ever sent). The answer
is either the headers ``Auth-Status: OK``, ``Auth-Server``, ``Auth-Port`` and ``Auth-User``, where
another status is no such user; or a JSON object with ``server`` (a text, or ``servers``, a list),
``port`` and ``user``. Status 404 is no such user, any other than 200 is trouble.
Invariant: every wait has an end, every answer a bound; no error shows the URL.
"""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote_from_bytes, urlsplit

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, route_from, route_of
from perdition.route import Route

TIMEOUT = 5  # seconds for each wait
ANSWER_LIMIT = 65_536  # bytes

Answer = tuple[int, dict[str, str], bytes]


class Map(Popmap):
    """``map_library_opt``: the URL."""

    waits = True
    uses_addresses = True

    def __init__(self, option: str) -> None:
        url = urlsplit(option)
        try:
            port = url.port
        except ValueError:
            raise MapError("the URL's port is none") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise MapError("the http map wants a URL, http or https")
        self._secure, self._host, self._port = url.scheme == "https", url.hostname, port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._connection: HTTPConnection | None = None

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT:
            return None
        status, headers, body = self._ask(query)
        if status == 404:
            return None
        if status != 200:
            raise MapError(f"{self._host} answers with status {status}")
        if "auth-status" in headers:
            if headers["auth-status"] != "OK":
                return None
            user = headers.get("auth-user", "")
            server, port = headers.get("auth-server", ""), headers.get("auth-port", "")
            user = "" if user.encode("latin-1") == quote_from_bytes(query.key).encode() else user
            return route_from(user.encode(), server, port, query.delimiter)
        return self._of_json(body, query.delimiter)

    def _of_json(self, body: bytes, delimiter: bytes) -> Route:
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise MapError(f"{self._host} answers with no JSON object")
        if "value" in said:
            return route_of(str(said["value"]).encode(), delimiter)
        servers = said.get("servers") or [said.get("server") or ""]
        if not isinstance(servers, list):
            raise MapError(f"{self._host}: servers is no list")
        user, port = str(said.get("user") or ""), str(said.get("port") or "")
        return route_from(user.encode(), ",".join(map(str, servers)), port, delimiter)

    def _ask(self, query: Query) -> Answer:
        """One request; a kept connection that has died meanwhile is made anew once."""
        if self._connection is not None:
            try:
                return self._request(self._connection, query)
            except (OSError, HTTPException):
                self.close()
        try:
            self._connection = self._connect()
            return self._request(self._connection, query)
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            why = getattr(error, "strerror", None) or type(error).__name__
            raise MapError(f"{self._host}: {why}") from None

    def _connect(self) -> HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=context)
        return HTTPConnection(self._host, self._port, timeout=TIMEOUT)

    def _request(self, connection: HTTPConnection, query: Query) -> Answer:
        encoded = quote_from_bytes(query.key, safe="")
        headers = {"Auth-Method": "none", "Auth-User": encoded, "Accept": "application/json"}
        if query.client:
            headers["Client-IP"] = query.client[0]
        connection.request("GET", self._path.replace("%s", encoded), headers=headers)
        response = connection.getresponse()
        body = response.read(ANSWER_LIMIT + 1)
        if len(body) > ANSWER_LIMIT:
            raise MapError(f"{self._host}: an answer of more than {ANSWER_LIMIT} bytes")
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
