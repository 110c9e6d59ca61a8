"""LDAP: one search a look-up, by python-ldap.

    [2:|3:]ldap://HOST[:PORT][ HOST...]/BASE?ATTRIBUTE,...?SCOPE?FILTER?EXTENSIONS

``%s`` in the base or the filter is the key, escaped; as to printf(3), and so to 2.2, ``%10s`` is
the key in ten places, and ``%%`` is ``%``. Other percent signs are the URL's. The attributes are,
in this order, user, server and port; of one alone the value is read as a flat map's. Extensions:
``bindname=``, ``x-bindpw=``, and ours ``x-starttls``; ``ldaps://`` and ``ldapi://`` work. Of
several entries the first counts. Invariant: the key reaches the server escaped, and no error shows
the password.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

import ldap
import ldap.dn
import ldap.filter

from perdition.errors import MapError
from perdition.popmap.base import Popmap, Query, route_from, route_of, text_key
from perdition.route import Route

DEFAULT = "ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"
TIMEOUT = 5  # seconds for a connection and for an answer
_ENTRIES = 10  # entries and referrals of an answer that are read; of more the search is given up

_URL = re.compile(r"(?:[23]:)?(?P<scheme>ldap[si]?)://(?P<hosts>[^/?]*)(?:/(?P<rest>.*))?", re.S)
_PLACE = re.compile(r"%(\d*)s")
_SCOPES = {"": ldap.SCOPE_BASE, "base": ldap.SCOPE_BASE, "one": ldap.SCOPE_ONELEVEL,
           "sub": ldap.SCOPE_SUBTREE}  # fmt: skip


class _Template(NamedTuple):
    """Texts with places for the key between them, each of a width."""

    texts: tuple[str, ...]
    widths: tuple[int, ...]

    def filled(self, key: str, escape: Callable[[str], str]) -> str:
        keys = [escape(key.rjust(width)) for width in self.widths]
        return "".join(map(str.__add__, self.texts, [*keys, ""]))


def _template(text: str) -> _Template:
    parts = _PLACE.split(text)
    return _Template(tuple(map(_plain, parts[::2])), tuple(int(each or 0) for each in parts[1::2]))


def _plain(text: str) -> str:
    return unquote(text.replace("%%", "%"))


class _Search(NamedTuple):
    """What an LDAP URL says (RFC 4516)."""

    servers: tuple[str, ...]
    base: _Template
    attributes: list[str]
    scope: int
    filter: _Template
    bind_name: str = ""
    bind_password: str = ""
    start_tls: bool = False


def _parse(url: str) -> _Search:
    if re.match(r"\d+:", url) and url[:2] not in ("2:", "3:"):
        raise MapError("the version of LDAP is 2 or 3")
    found = _URL.fullmatch(url)
    if found is None:
        raise MapError("not an LDAP URL")
    parts = (found["rest"] or "").split("?", 4)
    base, attributes, scope, search, extensions = (*parts, "", "", "", "", "")[:5]
    if scope.lower() not in _SCOPES:
        raise MapError(f"not a scope of a search: {scope!r}")
    names = [unquote(each) for each in attributes.split(",") if each]
    values: dict[str, str] = {}
    for each in filter(None, extensions.split(",")):
        name, _, value = each.lstrip("!").partition("=")
        if each.startswith("!") and name.lower() not in ("bindname", "x-bindpw", "x-starttls"):
            raise MapError(f"an extension that is not known, and critical: {name!r}")
        values[name.lower()] = _plain(value)
    hosts = [each.partition("://")[2] or each for each in found["hosts"].split()] or [""]
    return _Search(
        tuple(f"{found['scheme']}://{host}" for host in hosts), _template(base), names,
        _SCOPES[scope.lower()], _template(search),
        values.get("bindname", ""), values.get("x-bindpw", ""), "x-starttls" in values,
    )  # fmt: skip


class Map(Popmap):
    """``map_library_opt``: the URL."""

    waits = True

    def __init__(self, option: str) -> None:
        self._search = _parse(option or DEFAULT)
        self._connection: Any = None

    def lookup(self, query: Query) -> Route | None:
        key = text_key(query)
        if key is None:
            return None
        entry = self._ask(key)
        if entry is None:
            return None
        found = {name.lower(): values for name, values in entry.items()}
        values = [
            (found.get(name.lower()) or [b""])[0].decode("utf-8", "replace").strip()
            for name in self._search.attributes
        ]
        user, server, port = (*values, "", "", "")[:3]
        if user and not server and not port:  # one value alone says all
            return route_of(user.encode(), query.delimiter)
        return route_from(user.encode(), server, port, query.delimiter)

    def _ask(self, key: str) -> dict[str, list[bytes]] | None:
        """The first entry found; a kept connection that has died meanwhile is made anew once."""
        if self._connection is not None:
            try:
                return self._entry(key)
            except ldap.NO_SUCH_OBJECT:
                if self._search.base.widths:
                    return None
                self.close()
            except ldap.LDAPError:
                self.close()
        trouble: MapError | None = None
        base = self._search.base
        for server in self._search.servers:
            try:
                self._connection = self._connect(server)
                return self._entry(key)
            except ldap.NO_SUCH_OBJECT:
                if base.widths:
                    return None  # the entry that the key names
                trouble = MapError(f"there is no {base.texts[0]!r}")
            except ldap.LDAPError as error:
                trouble = MapError(f"{server}: {_reason(error)}")
            self.close()
        assert trouble is not None
        raise trouble

    def _entry(self, key: str) -> dict[str, list[bytes]] | None:
        search = self._search
        wanted = search.filter.filled(key, ldap.filter.escape_filter_chars)
        base = search.base.filled(key, ldap.dn.escape_dn_chars)
        until = time.monotonic() + TIMEOUT
        asked = self._connection.search_ext(
            base, search.scope, wanted or "(objectClass=*)", search.attributes or None,
            timeout=TIMEOUT, sizelimit=0,
        )  # fmt: skip
        found = None
        for _ in range(_ENTRIES):
            kind, entries = self._connection.result(
                asked, all=0, timeout=max(0.001, until - time.monotonic())
            )
            if kind == ldap.RES_SEARCH_RESULT:
                return found
            if found is None:
                found = next((values for dn, values in entries if dn is not None), None)
        self._connection.abandon_ext(asked)
        return found

    def _connect(self, server: str) -> Any:
        search = self._search
        connection = ldap.initialize(server)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, TIMEOUT)
        connection.set_option(ldap.OPT_TIMEOUT, TIMEOUT)
        connection.set_option(ldap.OPT_REFERRALS, 0)
        connection.protocol_version = ldap.VERSION3
        if search.start_tls:
            connection.start_tls_s()
        connection.simple_bind_s(search.bind_name, search.bind_password)
        return connection

    def close(self) -> None:
        """Close the connection; the next look-up makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.unbind_s()
            except ldap.LDAPError:
                pass  # it was dead already


def _reason(error: Exception) -> str:
    """What the library says, which never holds a password."""
    told = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return str(told.get("desc") or type(error).__name__)
