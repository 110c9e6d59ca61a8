"""The how-to, word for word: IMAPS in a DMZ, in front of a real Dovecot.

The configuration is the one on the page docs/howto-dmz.md but for addresses, ports and paths;
everything goes through commands as an administrator and a user would use them.
"""

from __future__ import annotations

import imaplib
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.servers.dovecot import Dovecot
from tests.servers.ports import free_port, listens
from tests.servers.syslog import Syslog

BIN = Path(sys.executable).parent
USER, PASSWORD = "kim", 'se cr"et\\1'
PAGE = (ROOT / "docs/howto-dmz.md").read_text()
FLAGS = """\
FLAGS="--log_socket {folder}/log"
IMAP4S_FLAGS="--config_file {folder}/etc/perdition.imap4s.conf --listen_port {port} \\
    --bind_address 127.0.0.1 --workers 2 --failure_delay 0"
"""


def block(first: str) -> str:
    """The page's block that begins so, word for word."""
    found = re.search(rf"^```\w*\n({re.escape(first)}.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


FAN = r"127\.0\.0\.1:\d+->127\.0\.0\.1:"


class HowTo:
    """The DMZ host: Dovecot behind, a syslog daemon, the service."""

    def __init__(self, folder: Path, certificates: Path, dovecot: Dovecot, syslog: Syslog) -> None:
        self.folder = folder
        self.dovecot = dovecot
        self.syslog = syslog
        self.port = free_port()
        self.authority = certificates / "ca.pem"
        self.certificate = certificates / "cert.pem"
        (folder / "etc").mkdir()
        (folder / "defaults").write_text(
            block("RUN_PERDITION") + FLAGS.format(folder=folder, port=self.port)
        )
        configuration = block("outgoing_server")
        for theirs, ours in (
            ("[IP OF DOVECOT SERVER]", "127.0.0.1"),
            ("outgoing_port 143", f"outgoing_port {dovecot.port}"),
            ("/path/to", str(certificates)),
        ):
            assert theirs in configuration
            configuration = configuration.replace(theirs, ours)
        (folder / "etc/perdition.imap4s.conf").write_text(configuration)

    def service(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run ``perdition-service VERB``."""
        return subprocess.run(
            [BIN / "perdition-service", "--defaults", self.folder / "defaults",
             "--run-dir", self.folder / "run", verb],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def client(self, user: str = USER, password: str = PASSWORD) -> imaplib.IMAP4:
        """Log in through the proxy."""
        context = ssl.create_default_context(cafile=self.authority)
        client = imaplib.IMAP4_SSL("127.0.0.1", self.port, ssl_context=context, timeout=10)
        client.login(user, password)
        return client

    def direct(self) -> imaplib.IMAP4:
        """Log in at Dovecot itself."""
        client = imaplib.IMAP4("127.0.0.1", self.dovecot.port, timeout=10)
        client.login(USER, PASSWORD)
        return client


@pytest.fixture(scope="module")
def howto(folder: Path, certificates: Path, need: Callable[[str], str]) -> Iterator[HowTo]:
    """Start it all by the launcher, end it all."""
    users = {USER: PASSWORD, "mbsync": "mbsync", "curl": "curl"}
    with (
        Dovecot(need("dovecot"), folder / "dovecot", users) as dovecot,
        Syslog(folder / "log") as syslog,
    ):
        howto = HowTo(folder, certificates, dovecot, syslog)
        started = howto.service("start")
        try:
            assert started.returncode == 0, started.stderr
            yield howto
        finally:
            stopped = howto.service("stop")
            assert stopped.returncode == 0, stopped.stderr
            assert not listens(howto.port)


def test_one_daemon_listens_and_says_so(howto: HowTo, need: Callable[[str], str]) -> None:
    pid = (howto.folder / "run/perdition.imaps.pid").read_text().strip()
    titles = subprocess.run(
        [need("ps"), "-o", "args=", "-p", pid], capture_output=True, text=True, check=True
    ).stdout
    assert titles.strip() == "perdition.imaps: daemon"
    status = howto.service("status")
    assert status.returncode == 0
    assert f"perdition.imaps: running, pid {pid}, listens on 127.0.0.1:{howto.port}" in (
        status.stdout
    )
    assert [line for line in status.stdout.splitlines() if ": running" in line] == [
        line for line in status.stdout.splitlines() if "perdition.imaps" in line
    ]
    said = howto.syslog.texts
    assert re.fullmatch(r"Starting perdition version=\S+ protocol=IMAP4S", said[0])
    assert re.fullmatch(r'Loaded Diffie-Hellman parameters: ".*/dhparm\.pem"', said[1])
    assert all(text.startswith(f"perdition.imaps[{pid}]: ") for _, _, text in
               howto.syslog.records[:2])  # fmt: skip


def test_the_transcript(howto: HowTo, need: Callable[[str], str]) -> None:
    quoted = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    done = subprocess.run(
        [need("openssl"), "s_client", "-quiet", "-crlf", "-connect", f"127.0.0.1:{howto.port}",
         "-verify_return_error", "-CAfile", howto.authority],
        input=f'a login {USER} "{quoted}"\na logout\n', capture_output=True, text=True, check=False,
        timeout=15,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"\* OK \[CAPABILITY IMAP4rev1 LOGIN-REFERRALS ID ENABLE IDLE LITERAL\+\] "
        r"perdition ready on 127\.0\.0\.1 [0-9a-f]{8}",
        lines[0],
    )
    assert re.fullmatch(r"\* CAPABILITY IMAP4rev1 .*UIDPLUS.*", lines[1]), "Dovecot's own"
    assert lines[2] == "a OK You are so in"
    assert lines[3] == "* BYE Logging out"
    assert re.match(r"a OK Logout completed", lines[4])
    assert len(lines) == 5
    server = f"127.0.0.1:{howto.dovecot.port}"
    howto.syslog.wait_for(rf"^Connect:  {FAN}{howto.port}$")
    howto.syslog.wait_for(
        rf"^Auth: {FAN}{howto.port} client-secure=ssl authorisation_id=NONE "
        rf'authentication_id="{USER}" server="{server}" protocol=IMAP4S server-secure=plaintext '
        r'status="ok"$'
    )
    howto.syslog.wait_for(
        rf"^Closing session: {FAN}{howto.port} authorisation_id=NONE "
        rf'authentication_id="{USER}" received=\d+ sent=\d+$'
    )


def message(number: int) -> bytes:
    """A mail of some size with bytes beyond ASCII in it."""
    body = "".join(f"Zeile {n} von Brief {number}: äöü\r\n" for n in range(50 * number))
    return (
        f"From: <a@example.org>\r\nTo: <{USER}@example.org>\r\nSubject: Brief {number}\r\n"
        f"Message-ID: <{number}@example.org>\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"\r\n{body}"
    ).encode()


def state(client: imaplib.IMAP4) -> dict[str, object]:
    """All that a user can see of two mailboxes."""
    seen: dict[str, object] = {}
    for mailbox in ("INBOX", "Archive"):
        client.select(mailbox, readonly=True)
        seen[mailbox] = client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
        seen[mailbox + "?"] = client.uid("SEARCH", "SUBJECT", '"Brief 2"')
    return seen


def test_mail_through_the_proxy_is_the_mail_there_is(howto: HowTo) -> None:
    client = howto.client()
    for number in (1, 2, 3):
        assert client.append("INBOX", "", None, message(number))[0] == "OK"
    assert client.create("Archive")[0] == "OK"
    client.select("INBOX")
    found = client.search(None, "SUBJECT", '"Brief 2"')[1][0]
    assert found == b"2"
    assert client._simple_command("MOVE", "2", "Archive")[0] == "OK"
    assert client.store("1", "+FLAGS", "\\Flagged")[0] == "OK"
    fetched = client.fetch("2", "(BODY.PEEK[])")[1][0]
    assert isinstance(fetched, tuple)
    assert fetched[1] == message(3)
    client.select("Archive")
    moved = client.fetch("1", "(BODY.PEEK[])")[1][0]
    assert isinstance(moved, tuple)
    assert moved[1] == message(2)
    direct = howto.direct()
    assert state(client) == state(direct)
    client.logout()
    direct.logout()


def test_idle_tells_of_new_mail(howto: HowTo) -> None:
    client = howto.client("mbsync", "mbsync")
    client.select("INBOX")
    client.send(b"idle1 IDLE\r\n")
    assert client.readline().startswith(b"+")
    other = howto.client("mbsync", "mbsync")
    other.append("INBOX", "", None, message(1))
    assert client.readline() == b"* 1 EXISTS\r\n"
    other.select("INBOX")
    other.store("1", "+FLAGS", "\\Deleted")
    other.expunge()
    other.logout()
    client.send(b"DONE\r\n")
    while not (line := client.readline()).startswith(b"idle1 "):
        assert line.startswith(b"* ")
    client.logout()


def test_mbsync(howto: HowTo, need: Callable[[str], str], folder: Path) -> None:
    mbsync = need("mbsync")
    up, down = folder / "up", folder / "down"
    for maildir in (up, down):
        for part in ("cur", "new", "tmp"):
            (maildir / "INBOX" / part).mkdir(parents=True)
    letters = {message(number).replace(b"\r\n", b"\n") for number in (1, 2, 3, 9)}
    for number, letter in enumerate(letters):
        (up / f"INBOX/new/{number}.dmz").write_bytes(letter)

    def sync(maildir: Path, account: str) -> None:
        path = folder / f"mbsyncrc.{maildir.name}"
        path.write_text(
            f"IMAPAccount dmz\n{account}User mbsync\nPass mbsync\nAuthMechs LOGIN\n\n"
            "IMAPStore far\nAccount dmz\n\n"
            f"MaildirStore near\nPath {maildir}/\nInbox {maildir}/INBOX\n\n"
            "Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Both\nSync All\n"
            f"SyncState {folder}/sync-{maildir.name}-\n"
        )
        done = subprocess.run([mbsync, "-c", path, "all"], capture_output=True, text=True,
                              check=False, timeout=15)  # fmt: skip
        assert done.returncode == 0, done.stderr

    def stored(maildir: Path) -> set[bytes]:
        kept = [path for part in ("cur", "new") for path in (maildir / "INBOX" / part).iterdir()]
        return {re.sub(rb"X-TUID: .*\n", b"", path.read_bytes()) for path in kept}

    tls = f"SSLType IMAPS\nCertificateFile {howto.certificate}\n"
    sync(up, f"Host 127.0.0.1\nPort {howto.port}\n{tls}")
    sync(down, f"Host 127.0.0.1\nPort {howto.dovecot.port}\nSSLType None\n")
    assert stored(down) == stored(up) == letters


def test_curl(howto: HowTo, need: Callable[[str], str], folder: Path) -> None:
    url = f"imaps://localhost:{howto.port}/INBOX"
    letter = folder / "letter"
    letter.write_bytes(message(7))

    def curl(*words: str) -> bytes:
        command = [need("curl"), "-sS", "--cacert", str(howto.authority), "-u", "curl:curl", *words]
        return subprocess.run(command, capture_output=True, check=True, timeout=15).stdout

    curl("-T", str(letter), url)
    assert curl(f"{url};MAILINDEX=1") == message(7)
    assert curl(url, "-X", 'SEARCH SUBJECT "Brief 7"') == b"* SEARCH 1\r\n"
    direct = f"imap://127.0.0.1:{howto.dovecot.port}/INBOX;MAILINDEX=1"
    assert curl(direct) == message(7)


def test_fail2ban_bans_who_guesses_and_nobody_else(
    howto: HowTo, need: Callable[[str], str], folder: Path
) -> None:
    regex = need("fail2ban-regex")

    def matches(text: str) -> int:
        log = folder / "mail.log"
        log.write_text(text)
        done = subprocess.run(
            [regex, str(log), "/etc/fail2ban/filter.d/perdition.conf"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(re.search(r"(\d+) matched", done.stdout)[1])  # type: ignore[index]

    howto.syslog.records.clear()
    for _ in range(20):
        howto.client().logout()
    howto.syslog.wait_for("^Closing session", 20)
    assert matches(howto.syslog.file) == 0
    howto.syslog.records.clear()
    context = ssl.create_default_context(cafile=howto.authority)

    def guess(_: int) -> None:
        with imaplib.IMAP4_SSL("127.0.0.1", howto.port, ssl_context=context, timeout=10) as guesser:
            for number in range(5):
                with pytest.raises(imaplib.IMAP4.error, match=r"AUTHENTICATIONFAILED"):
                    guesser.login(USER, f"guess{number}")

    with ThreadPoolExecutor(20) as pool:  # Dovecot waits half a second before it says no
        list(pool.map(guess, range(20)))
    howto.syslog.wait_for('status="failed: Re-Authentication Failure"$', 100)
    howto.syslog.wait_for("^Closing", 20)
    assert matches(howto.syslog.file) == 100
    assert "guess" not in howto.syslog.file
    assert PASSWORD not in howto.syslog.file
