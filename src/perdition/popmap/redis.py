"""Redis and Valkey: a key for each user, or one hash of all.

    redis://[USER:PASSWORD@]HOST[:PORT]/DATABASE[?key=perdition:%s | ?hash=NAME]

``rediss://`` is TLS, ``unix://PATH`` a socket. ``%s`` is the key; values are as in a flat map.
Invariant: no error shows the URL, which may hold a password.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, route_of
from perdition.route import Route

DEFAULT = "redis://127.0.0.1:6379/0"
TIMEOUT = 5  # seconds for each wait
_WORDS = (
    "key", "hash", "db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs",
    "ssl_check_hostname",
)  # fmt: skip


class Map(Popmap):
    """``map_library_opt``: the URL."""

    waits = True

    def __init__(self, option: str) -> None:
        try:
            parts = urlsplit(option or DEFAULT)
        except ValueError:
            raise MapError("the URL of Redis has a host that is none") from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise MapError("not a URL of Redis (redis, rediss or unix)")
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := [name for name in asked if name not in _WORDS]:
            raise MapError(f"a URL of Redis has no {unknown[0][:50]!r} here")
        self._key = asked.pop("key", "perdition:%s").encode()
        self._hash = asked.pop("hash", "")
        self._url = urlunsplit(parts._replace(query=urlencode(asked)))
        self._client: Any = None
        if b"%s" not in self._key:
            raise MapError("key has no %s for the user")

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT:
            return None
        try:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self._url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT,
                    retry_on_error=[],
                )  # fmt: skip
            value = self._fetch(query.key)
        except (redis.RedisError, OSError, ValueError, TypeError) as error:
            self.close()
            raise MapError(f"Redis: {type(error).__name__}") from None
        return None if value is None else route_of(value, query.delimiter)

    def _fetch(self, key: bytes) -> bytes | None:
        for last in (False, True):
            try:
                if self._hash:
                    found = self._client.hget(self._hash, key)
                else:
                    found = self._client.get(self._key.replace(b"%s", key))
                return found  # type: ignore[no-any-return]
            except redis.ConnectionError:
                if last:  # the first may have been a connection that had died meanwhile
                    raise
        return None

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
