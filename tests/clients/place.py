"""Where clients are tried: a Dovecot, ours before it, and the same work done at both.

A client's work is a function of a `Way`; `Place.same` has it done directly and through ours, by two
users in like circumstances, and fails if the outcomes differ or nothing went through ours.

Dovecot behind TLS may drop the end of a long answer when it is told to log out meanwhile, so LOGOUT
and QUIT are not pipelined behind one.
"""

from __future__ import annotations

import functools
import imaplib
import itertools
import os
import re
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot

MODES = ("plain", "tls", "starttls")
USERS = {f"user{number:03}": f'pa"s\\s w0rd{number:03}' for number in range(200)}

_COMMANDS = {
    "imap": "perdition.imap4", "pop3": "perdition.pop3", "sieve": "perdition.managesieve",
}  # fmt: skip
_LISTEN = {"plain": "none", "tls": "ssl_listen", "starttls": "tls_listen_force"}
_OUTGOING = {"plain": "none", "tls": "ssl_outgoing", "starttls": "tls_outgoing_force"}
_SECURE = {"plain": "plaintext", "tls": "ssl", "starttls": "starttls"}
_T = TypeVar("_T")

LONG = 1_200_000  # bytes of a long letter
REFUSED = "failed: Re-Authentication Failure"  # the log's word for a wrong password

# What programs that fetch or synchronise put into mail for themselves.
MARKS = re.compile(rb"^(X-TUID|X-OfflineIMAP|X-getmail-[\w-]+): .*\n", re.MULTILINE)

# The number of a mailbox is the second it was made in; Dovecot says how long a command took.
_OF_THE_CLOCK = re.compile(rb"(UIDVALIDITY|APPENDUID|COPYUID) \d+|\([\d.]+ \+ [\d. +sec]*secs?\)\.")


@functools.cache
def letter(number: int, size: int = 0) -> bytes:
    """A mail with what is easily spoilt on its way; `size` makes it longer."""
    lines = [
        b".", b"..", b".x", b"From here", b"", "äöü €".encode(), b"=20 =\t", b"y" * 2000, b"\x80",
    ]  # fmt: skip
    lines += [b"%06d " % line + b"0123456789abcdef" * 4 for line in range(size // 73)]
    head = (
        f"From: Ann <ann@example.org>\r\nTo: Bob <bob@example.org>\r\nSubject: Letter {number}\r\n"
        f"Date: Tue, 0{number % 9 + 1} Sep 2026 12:00:00 +0000\r\n"
        f"Message-ID: <{number}@example.org>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return head.encode() + b"\r\n".join(lines) + b"\r\n"


@dataclass(frozen=True)
class Way:
    """One way to the server, and who goes it."""

    port: int
    mode: str
    user: str
    authority: Path
    folder: Path  # the client's own
    through: bool  # ours, not directly

    host = "localhost"  # many clients ask for it as the common name of the certificate

    @property
    def password(self) -> str:
        """The user's."""
        return USERS[self.user]

    @property
    def context(self) -> ssl.SSLContext:
        """The client's TLS."""
        return ssl.create_default_context(cafile=self.authority)

    def clean(self, text: str) -> str:
        """A text of the client without what must differ: user, port, folder, process numbers."""
        for name, value in (
            ("PASSWORD", self.password), ("USER", self.user), ("FOLDER", str(self.folder)),
        ):  # fmt: skip
            text = text.replace(value, name)
        return re.sub(rf"\b{self.port}\b", "PORT", text)

    def run(
        self, *command: str | os.PathLike[str], says: bytes | str | None = None, status: int = 0,
        patience: int = 15,
    ) -> tuple[bytes, str]:  # fmt: skip
        """Run a client to its end; return what it says and what it complains of, cleaned."""
        done = subprocess.run(
            command, input=says.encode() if isinstance(says, str) else says, capture_output=True,
            check=False, timeout=patience, cwd=self.folder, stdin=subprocess.DEVNULL if says is None
            else None,
            env={**os.environ, "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "TERM": "xterm"},
        )  # fmt: skip
        complaint = done.stderr.decode("utf-8", "backslashreplace")
        assert done.returncode == status, (done.returncode, done.stdout, complaint)
        return done.stdout, self.clean(complaint)


class Place:
    """Dovecot, ours before it as they are wanted, users who were nowhere before. A context."""

    def __init__(self, folder: Path, certificates: Path, dovecot: Dovecot) -> None:
        self.folder = folder
        self.certificates = certificates
        self.dovecot = dovecot
        self._daemons: dict[tuple[str, str], Daemon] = {}
        self._stack = ExitStack()
        self._users = itertools.cycle(USERS)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _direct(self, protocol: str, mode: str) -> int:
        server = self.dovecot
        if mode == "tls":
            return {"imap": server.imaps, "pop3": server.pop3s}[protocol]
        return {"imap": server.port, "pop3": server.pop3, "sieve": server.sieve}[protocol]

    def daemon(self, protocol: str, mode: str) -> Daemon:
        """Ours for that; the leg to Dovecot is as the client's would be."""
        if (protocol, mode) not in self._daemons:
            there = _at_dovecot(protocol, mode)
            daemon = Daemon(
                self.folder / f"{protocol}-{mode}", "outgoing_server 127.0.0.1",
                f"outgoing_port {self._direct(protocol, there)}", "workers 1", "failure_delay 0",
                f"ssl_mode {_LISTEN[mode]},{_OUTGOING[there]}",
                f"ssl_cert_file {self.certificates}/cert.pem",
                f"ssl_key_file {self.certificates}/key.pem",
                f"ssl_ca_file {self.certificates}/ca.pem", command=_COMMANDS[protocol],
            )  # fmt: skip
            self._daemons[protocol, mode] = self._stack.enter_context(daemon)
        return self._daemons[protocol, mode]

    def way(self, protocol: str, mode: str, through: bool, letters: int = 0) -> Way:
        """A way for a new user, who has so many letters."""
        user = next(self._users)
        folder = self.folder / user
        folder.mkdir()
        if letters:
            self.deliver(user, *range(1, letters + 1))
        if through:
            port = self.daemon(protocol, mode).port
        else:
            mode = _at_dovecot(protocol, mode)
            port = self._direct(protocol, mode)
        return Way(port, mode, user, self.certificates / "ca.pem", folder, through)

    def deliver(self, user: str, *numbers: int) -> None:
        """Put letters into a user's inbox; the second is long."""
        with self.owner(user) as client:
            for number in numbers:
                date = f'" {number % 9 + 1}-Sep-2026 12:00:00 +0000"'
                assert client.append("INBOX", "", date, letter(number, LONG if number == 2 else 0))
            client.logout()

    def owner(self, user: str) -> imaplib.IMAP4:
        """The user's own connection to Dovecot, not through ours."""
        client = imaplib.IMAP4("127.0.0.1", self.dovecot.port, timeout=10)
        client.login(user, USERS[user])
        return client

    def state(self, user: str) -> dict[str, list[tuple[str, bytes]]]:
        """What a user has at Dovecot: mailbox -> each mail's flags, as a Maildir has them, text."""
        found = {}
        with self.owner(user) as client:
            for line in client.list()[1]:
                assert isinstance(line, bytes)
                name = line.decode().rpartition(" ")[2]
                client.select(name, readonly=True)
                fetched = client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")[1]
                mails = [part for part in fetched if isinstance(part, tuple)]
                found[name.strip('"')] = sorted(
                    (_maildir_flags(how), MARKS.sub(b"", text)) for how, text in mails
                )
            client.logout()
        return found

    def same(
        self, protocol: str, mode: str, work: Callable[[Way], _T], letters: int = 0,
        status: str = "ok",
    ) -> _T:  # fmt: skip
        """Have work done on both ways at a time; return the outcome, which must be one."""

        def noted(way: Way) -> _T:
            try:
                return work(way)
            except BaseException as error:
                error.add_note("through ours" if way.through else "directly")
                raise

        ways = [self.way(protocol, mode, through, letters) for through in (False, True)]
        with ThreadPoolExecutor(2) as pool:
            directly, through = pool.map(noted, ways)
        difference = _difference(steady(directly), steady(through))
        assert not difference, difference
        client, server = _SECURE[mode], _SECURE[_at_dovecot(protocol, mode)]
        self.daemon(protocol, mode).wait_for_log(
            rf'client-secure={client} .*authentication_id="{ways[1].user}" '
            rf'.*server-secure={server} status="{status}'
        )
        return through


def _at_dovecot(protocol: str, mode: str) -> str:
    """How Dovecot is reached: Pigeonhole has no port for TLS, and loses commands if made one."""
    return "starttls" if (protocol, mode) == ("sieve", "tls") else mode


def _maildir_flags(fetched: bytes) -> str:
    return "".join(sorted(
        word[:1] for word in re.findall(r"\\(\w+)", fetched.decode()) if word != "Recent"
    )).replace("A", "R")  # fmt: skip


def steady(seen: object) -> object:
    """An outcome without what a clock has put into it."""
    if isinstance(seen, str):
        return steady(seen.encode("utf-8", "surrogateescape"))
    if isinstance(seen, (bytes, bytearray)):
        return _OF_THE_CLOCK.sub(rb"\1", bytes(seen))
    if isinstance(seen, (list, tuple)):
        return [steady(each) for each in seen]
    if isinstance(seen, dict):
        return {steady(key): steady(value) for key, value in seen.items()}
    return seen


def _difference(directly: object, through: object) -> str:
    """Where two outcomes differ first; empty if they don't."""
    if isinstance(directly, list) and isinstance(through, list):
        for number, pair in enumerate(zip(directly, through, strict=False)):
            if where := _difference(*pair):
                return f"[{number}]{where}"
    if (
        isinstance(directly, dict)
        and isinstance(through, dict)
        and directly.keys() == through.keys()
    ):
        for key, value in directly.items():
            if where := _difference(value, through[key]):
                return f"[{key}]{where}"
    if directly == through:
        return ""
    texts = str(directly), str(through)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    start = max(0, sum(1 for _ in same) - 60)
    first, second = (text[start : start + 300] for text in texts)
    return f": directly …{first}\nthrough ours …{second}"
