"""Ask the servers that options name, and a popmap's service, whether they are there and fit.

No login is tried. Blocking, in threads of its own: for a command, not for a daemon.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from perdition import proxy_header
from perdition.check.findings import ERROR, WARNING, Finding
from perdition.config import Config
from perdition.errors import MapError, StartError
from perdition.log import text_of
from perdition.popmap.base import Popmap, Query
from perdition.protocols import PROTOCOLS, TlsUse
from perdition.route import Server
from perdition.tls import chain_of, outgoing_context, server_check
from perdition.wire.asking import DIALECTS, lacking

NOBODY = b"perdition-check-config"  # the user who is looked up
_AT_ONCE = 16  # servers
_MOST = 65_536  # bytes of one answer


class _TroubleError(Exception):
    """Why a server is of no use."""


def probe(config: Config, popmap: Popmap | None) -> list[Finding]:
    """Ask the popmap's service, if it has one, and every server of ``outgoing_server``."""
    found = list(_popmap(popmap)) if popmap is not None else []
    try:
        secure = _Secure(config)
    except StartError:
        return found  # a trial of the contexts has told why
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for each in pool.map(lambda s: _server(config, s, secure), config.outgoing_server):
            found += each
    return found


def _popmap(popmap: Popmap) -> Iterator[Finding]:
    if popmap.waits:
        try:
            popmap.lookup(Query(NOBODY))
        except MapError as error:
            yield Finding(ERROR, "map_library_opt", f"map_library: {error}")
        finally:
            popmap.close()


class _Secure:
    """TLS toward servers, with all that is asked of their certificates."""

    def __init__(self, config: Config) -> None:
        has_tls = config.ssl_mode.outgoing is not TlsUse.NONE
        self._context = outgoing_context(config) if has_tls else None
        self._check = server_check(config) if has_tls else None

    def __call__(self, sock: socket.socket, host: str) -> socket.socket:
        assert self._context is not None
        try:
            secure = self._context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _TroubleError(f"its certificate is refused: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise _TroubleError(f"TLS fails: {error.reason or error}") from None
        if self._check is not None and (why := self._check.refusal(chain_of(secure), host)):
            secure.close()
            raise _TroubleError(f"its certificate is refused: {why}")
        return secure


def _server(config: Config, server: Server, secure: _Secure) -> list[Finding]:
    """Try each address of a server; it is an error only if none is of use."""
    named = Server(server.host, server.port or config.outgoing_port)
    try:
        answers = socket.getaddrinfo(
            named.host, named.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except OSError as error:
        text = f"outgoing_server: {named}: no address: {error.strerror}"
        return [Finding(ERROR, "outgoing_server", text)]
    bad: list[str] = []
    good: list[list[Finding]] = []
    for address in dict.fromkeys((int(a[0]), a[4]) for a in answers):
        where = str(named) if address[1][0] == named.host else f"{named} ({address[1][0]})"
        try:
            good.append(_Asked(config, address, where, secure).findings(named.host))
        except (_TroubleError, OSError) as error:
            why = str(getattr(error, "strerror", None) or error)
            bad.append(f"outgoing_server: {where}: {why}")
    level = WARNING if good else ERROR
    found = [Finding(level, "outgoing_server", text) for text in bad]
    return found + [finding for each in good[:1] for finding in each]


class _Asked:
    """One conversation, bounded in bytes and time."""

    def __init__(self, config: Config, address: Any, where: str, secure: _Secure) -> None:
        row = PROTOCOLS[config.protocol]
        self._config, self._address, self._where, self._secure = config, address, where, secure
        self._dialect = DIALECTS[row.grammar]
        self._option = row.capability
        self._end = time.monotonic() + config.greeting_timeout

    def findings(self, host: str) -> list[Finding]:
        """Talk with the server; _TroubleError or OSError if it is of no use."""
        config = self._config
        family, where = self._address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(config.connect_timeout)
            self._connect(sock, where)
            if config.ssl_mode.outgoing is TlsUse.SSL:
                sock = self._secure(sock, host)
            answer = self._hear(sock, self._dialect.greeting, "greeting")
            if not self._dialect.welcome.match(answer):
                raise _TroubleError(f"greets with {text_of(answer[:100]).strip()!r}")
            found: list[Finding] = []
            if config.ssl_mode.outgoing in (TlsUse.TLS, TlsUse.TLS_FORCE):
                sock, found = self._starttls(sock, host)
            return found + self._lacks(sock)
        finally:
            sock.close()

    def _connect(self, sock: socket.socket, where: Any) -> None:
        try:
            sock.connect(where)
        except TimeoutError:
            seconds = self._config.connect_timeout
            raise _TroubleError(f"no connection within {seconds} s") from None
        if self._config.proxy_protocol_outgoing:
            sock.sendall(proxy_header.write(self._config.proxy_protocol_outgoing, None, None))

    def _hear(self, sock: socket.socket, end: re.Pattern[bytes], what: str) -> bytes:
        heard = b""
        while not end.search(heard):
            try:
                sock.settimeout(max(0.01, self._end - time.monotonic()))
                data = sock.recv(4096)
            except TimeoutError:
                seconds = self._config.greeting_timeout
                raise _TroubleError(f"no {what} within {seconds} s") from None
            if not data:
                raise _TroubleError(f"closes the connection without a {what}")
            heard += data
            if len(heard) > _MOST:
                raise _TroubleError(f"its {what} is longer than {_MOST} bytes")
        return heard

    def _starttls(self, sock: socket.socket, host: str) -> tuple[socket.socket, list[Finding]]:
        dialect = self._dialect
        sock.sendall(dialect.starttls)
        if dialect.agreed.match(self._hear(sock, dialect.started, "answer to STARTTLS")):
            secure = self._secure(sock, host)
            if dialect.greets_with_words:
                self._hear(secure, dialect.answer, "list of capabilities")
            return secure, []
        if self._config.ssl_mode.outgoing is TlsUse.TLS_FORCE:
            raise _TroubleError("refuses STARTTLS, which ssl_mode asks for")
        text = f"outgoing_server: {self._where} refuses STARTTLS: it gets passwords in clear"
        return sock, [Finding(WARNING, "outgoing_server", text)]

    def _lacks(self, sock: socket.socket) -> list[Finding]:
        """What we announce to clients that the server does not."""
        sock.sendall(self._dialect.ask)
        answer = self._hear(sock, self._dialect.answer, "list of capabilities")
        sock.sendall(self._dialect.goodbye)
        missing = lacking(self._dialect, getattr(self._config, self._option), answer)
        if not missing:
            return []
        words = ", ".join(missing)
        text = f"{self._option} announces {words}, {self._where} does not before a login"
        return [Finding(WARNING, self._option, text)]
