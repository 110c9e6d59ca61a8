"""A service asked over HTTP: nginx's ``auth_http`` protocol, or plain JSON.

    http[s]://[USER:PASSWORD@]HOST[:PORT]/PATH    ``%s`` in it is the key, percent-encoded

The request has Auth-Method: none (no password is ever sent), Auth-Protocol, Client-IP, and where
the URL has no place for the key Auth-User, escaped as nginx does it. The answer is either nginx's:
``Auth-Status: OK`` with ``Auth-Server``, ``Auth-Port`` and ``Auth-User``; another status is no such
user, unless it is WAIT or has an ``Auth-Error-Code`` of SMTP's temporary ones. Or it is a JSON
object with ``server`` (or ``servers``, a list), ``port`` and ``user``. Status 404 is no such user,
any other than 200 is trouble; redirections are not followed.
Invariant: a look-up has an end and its answer a bound; what comes unasked answers no other key; no
error shows the URL.
"""

from __future__ import annotations

import io
import json
import re
import socket
import ssl
import time
from base64 import b64encode
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote_from_bytes, unquote_to_bytes, urlsplit

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, is_ready, route_from, route_of
from perdition.route import Route

TIMEOUT = 5  # seconds for a connection, and for a question with its answer
ANSWER_LIMIT = 65_536  # bytes

Answer = tuple[int, dict[str, str], bytes]


class _Timed(io.RawIOBase):
    """What a connection receives, until the time for one answer is over."""

    def __init__(self, sock: socket.socket, raw: Any, until: float) -> None:
        self._sock, self._raw, self._until_when = sock, raw, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until_when - time.monotonic()
        if left <= 0:  # what comes fast enough never waits
            raise TimeoutError
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer that has to be there in time; the library's own bound is for each wait."""

    def __init__(self, until: float, sock: socket.socket, *args: Any, **words: Any) -> None:
        super().__init__(sock, *args, **words)
        self.fp = io.BufferedReader(_Timed(sock, self.fp.detach(), until))


class Map(Popmap):
    """``map_library_opt``: the URL."""

    waits = True
    uses_addresses = True

    def __init__(self, option: str) -> None:
        try:
            url = urlsplit(option)
            port = url.port
        except ValueError:
            raise MapError("the URL of the http map has a host or port that is none") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise MapError("the http map wants a URL, http or https")
        self._secure, self._host, self._port = url.scheme == "https", url.hostname, port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if not re.fullmatch(r"[!-~]+", self._path) or not re.fullmatch(r"[!-~]+", self._host):
            raise MapError("the URL of the http map has blanks or letters that are not ASCII")
        self._headers = {"Auth-Method": "none", "Accept": "application/json", **_account(url)}
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
            return self._of_nginx(headers, query)
        return self._of_json(body, query.delimiter)

    def _of_nginx(self, headers: dict[str, str], query: Query) -> Route | None:
        said = headers["auth-status"]
        if said == "WAIT" or headers.get("auth-error-code", "").startswith("4"):
            raise MapError(f"{self._host} answers: {said[:200]}")
        if said != "OK":
            return None
        server, port = headers.get("auth-server", ""), headers.get("auth-port", "")
        if not server:
            raise MapError(f"{self._host} answers OK without Auth-Server")
        user = headers.get("auth-user", "").encode("latin-1")  # which http.client has decoded
        user = b"" if user in (query.key, _escaped(query.key).encode()) else user
        return route_from(user, server, port, query.delimiter)

    def _of_json(self, body: bytes, delimiter: bytes) -> Route:
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise MapError(f"{self._host} answers with no JSON object")
        if "value" in said:
            return route_of(self._text(said["value"]).encode(), delimiter)
        servers = said.get("servers")
        if servers is None:
            servers = [said.get("server") or ""]
        if not isinstance(servers, list):
            raise MapError(f"{self._host}: servers is no list")
        user = self._text(said.get("user") or "").encode()
        port = said.get("port") or ""
        port = str(port) if type(port) is int else self._text(port)
        return route_from(user, ",".join(map(self._text, servers)), port, delimiter)

    def _text(self, value: object) -> str:
        if isinstance(value, str) and _is_whole(value):
            return value
        raise MapError(f"{self._host}: a value in the JSON is no text")

    def _ask(self, query: Query) -> Answer:
        """One request; a kept connection that has died meanwhile is made anew once."""
        try:
            if self._connection is not None and self._is_quiet(self._connection):
                try:
                    return self._request(self._connection, query)
                except ConnectionError:
                    pass
            self.close()
            self._connection = self._connect()
            return self._request(self._connection, query)
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            why = getattr(error, "strerror", None) or type(error).__name__
            if isinstance(error, TimeoutError):
                why = f"no answer within {TIMEOUT} s"
            raise MapError(f"{self._host}: {why}") from None
        except MapError:
            self.close()
            raise

    @staticmethod
    def _is_quiet(connection: HTTPConnection) -> bool:
        """Whether nothing, not even the end, has come unasked: it would answer the next key."""
        sock = connection.sock
        if sock is None or is_ready(sock, 0):
            return False
        return not (isinstance(sock, ssl.SSLSocket) and sock.pending())

    def _connect(self) -> HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=context)
        return HTTPConnection(self._host, self._port, timeout=TIMEOUT)

    def _request(self, connection: HTTPConnection, query: Query) -> Answer:
        headers = dict(self._headers)
        if "%s" not in self._path:
            headers["Auth-User"] = _escaped(query.key)
        if query.protocol:
            headers["Auth-Protocol"] = query.protocol
        if query.client:
            headers["Client-IP"] = query.client[0]
        path = self._path.replace("%s", quote_from_bytes(query.key, safe=""))
        connection.request("GET", path, headers=headers)
        until = time.monotonic() + TIMEOUT
        connection.response_class = partial(_Response, until)  # type: ignore[assignment]
        response = connection.getresponse()
        with response:
            body = response.read(ANSWER_LIMIT + 1)
        if len(body) > ANSWER_LIMIT:
            raise MapError(f"{self._host}: an answer of more than {ANSWER_LIMIT} bytes")
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _escaped(key: bytes) -> str:
    """A name as nginx sends it: blanks, percent signs and control characters are escaped."""
    return "".join(chr(c) if c > 32 and c != 37 else f"%{c:02X}" for c in key)


def _is_whole(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _account(url: SplitResult) -> dict[str, str]:
    """The header for the URL's user and password, if it has them."""
    if url.username is None:
        return {}
    words = b":".join(unquote_to_bytes(each or "") for each in (url.username, url.password))
    return {"Authorization": f"Basic {b64encode(words).decode()}"}
