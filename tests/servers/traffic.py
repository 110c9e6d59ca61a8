"""Mail on its way in both directions while something happens, and clients who log in all the while.

Transfers go slowly until they are released, so that they are under way before, during and after it;
what arrives is compared with what was sent.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import PATIENCE, wait_for

USERS = {name: f"canary-{name}" for name in ("ann", "bob", "cid", "dan", "eve")}
SIZE = 24 * 1_048_576  # bytes of a message, about
_CHUNK = 131_072
_PAUSE = 0.01  # seconds between chunks before the release
_HELD = 0.7  # the part of a message that goes before the release, at most

_TEXT = base64.encodebytes(os.urandom(SIZE * 3 // 4)).replace(b"\n", b"\r\n")
MESSAGE = b"Subject: traffic\r\n\r\n" + _TEXT
DIGEST = hashlib.sha256(MESSAGE).digest()


def log_in(port: int, user: str, context: ssl.SSLContext | None = None) -> Lines:
    """A client that is in."""
    client = Lines.to(port, context)
    assert client.hear().startswith("* OK")
    assert client.ask(f"a LOGIN {user} {USERS[user]}")[-1].startswith("a OK")
    return client


def put_message(port: int, user: str) -> None:
    """Give a user a message, at the server itself."""
    with log_in(port, user) as client:
        client.sock.sendall(b"b APPEND INBOX {%d+}\r\n%b\r\n" % (len(MESSAGE), MESSAGE))
        assert client.hear().startswith("b OK")


class Traffic:
    """Transfers and logins through daemons. A context; at its end all has gone well.

    `ways` are ports of daemons, each with the context of TLS to it if there is TLS.
    """

    def __init__(self, dovecot: Dovecot, *ways: tuple[int, ssl.SSLContext | None]) -> None:
        self.dovecot = dovecot
        self.logins = 0
        self._failures: list[str] = []
        self._released = threading.Event()
        self._over = threading.Event()
        self._passed: dict[str, int] = {}
        self._threads: list[threading.Thread] = []
        readers, writers = ("ann", "cid"), ("bob", "dan")
        for (port, context), reader, writer in zip(ways, readers, writers, strict=False):
            self._run(reader, self._fetch, port, context)
            self._run(writer, self._append, port, context)
            self._run("eve", self._keep_logging_in, port, context)

    def _run(
        self, user: str, what: Callable[..., None], port: int, context: ssl.SSLContext | None
    ) -> None:
        def work() -> None:
            try:
                what(user, port, context)
            except Exception as error:  # told by the main thread
                self._failures.append(f"{what.__name__} of {user}: {error!r}")

        self._threads.append(threading.Thread(target=work, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_for(self._under_way, "no traffic")
        return self

    def _under_way(self) -> bool:
        transfers = len(self._threads) * 2 // 3
        return bool(self._failures) or (
            self.logins > 0
            and len(self._passed) == transfers
            and min(self._passed.values()) > SIZE // 20
        )

    def __exit__(self, *_: object) -> None:
        before = self.logins
        if not self._failures:
            wait_for(lambda: self.logins > before or self._failures, "no login any more")
        self._over.set()
        self._released.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "transfers that never end"
        assert self._failures == []
        for user in ("bob", "dan"):
            if user in self._passed:
                with log_in(self.dovecot.port, user) as client:
                    assert _fetched(client, lambda _: None) == DIGEST, f"{user}'s mail differs"
                    client.ask("s STORE * +FLAGS.SILENT \\Deleted")
                    client.ask("e EXPUNGE")

    def _go(self, user: str, done: int) -> None:
        """Count what has passed, and wait if that is all that may for now."""
        self._passed[user] = done
        if not self._released.is_set():
            time.sleep(_PAUSE)
            if done > SIZE * _HELD:
                self._released.wait(PATIENCE)

    def _fetch(self, user: str, port: int, context: ssl.SSLContext | None) -> None:
        with log_in(port, user, context) as client:
            assert _fetched(client, lambda done: self._go(user, done)) == DIGEST, "it differs"
            assert client.ask("z LOGOUT")[-1].startswith("z OK")

    def _append(self, user: str, port: int, context: ssl.SSLContext | None) -> None:
        with log_in(port, user, context) as client:
            client.say(b"b APPEND INBOX {%d+}" % len(MESSAGE))
            for start in range(0, len(MESSAGE), _CHUNK):
                client.sock.sendall(MESSAGE[start : start + _CHUNK])
                self._go(user, start)
            client.say("")
            assert client.hear().startswith("b OK"), "it was not taken"
            assert client.ask("z LOGOUT")[-1].startswith("z OK")

    def _keep_logging_in(self, user: str, port: int, context: ssl.SSLContext | None) -> None:
        while not self._over.is_set():
            with log_in(port, user, context) as client:
                assert client.ask("z LOGOUT")[-1].startswith("z OK")
            self.logins += 1


def _fetched(client: Lines, go: Callable[[int], None]) -> bytes:
    """The digest of the newest message."""
    assert client.ask("s SELECT INBOX")[-1].startswith("s OK")
    client.say("f FETCH * BODY.PEEK[]")
    left = int(client.hear().rpartition("{")[2].rstrip("}"))
    digest, done = hashlib.sha256(), 0
    while left:
        chunk = client.read(min(left, _CHUNK))
        assert chunk, "the stream ends early"
        digest.update(chunk)
        done, left = done + len(chunk), left - len(chunk)
        go(done)
    assert client.hear() == ")"
    assert client.hear().startswith("f OK")
    return digest.digest()
