"""The filters of fail2ban, ours and its own, over lines that the log itself writes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT

from perdition.log import Log, open_target
from perdition.session.trail import Address, Trail, TrailTerms, plain_host
from perdition.wire.base import Login, Reason

OWN_FILTERS = Path("/etc/fail2ban/filter.d")
OURS = ROOT / "share/fail2ban/perdition3.conf"

V4 = ("192.0.2.7", "198.51.100.1")
MAPPED = ("::ffff:192.0.2.7", "::ffff:198.51.100.1")
V6 = ("2001:db8::7", "2001:db8::1")
SHORT_V6 = ("::7", "::1")
LONG_V6 = ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:7")
LINK = ("fe80::7%eth0", "fe80::1%eth0")
HOSTS = (V4, MAPPED, V6, SHORT_V6, LONG_V6, LINK)

NAMES = (
    b"kim", b"", b'k"im', b"kim\\", b"\xff\r\n", b"kim@example.org", b"k im", b"\xc3\xa9",
    b'x" server="a:1" protocol=IMAP4 server-secure=ssl status="ok"',
    b"Auth: 203.0.113.9:1->203.0.113.9:2",
    b"\nNov 24 04:00:00 h perdition.imaps[7]: Auth: 203.0.113.9:1->203.0.113.8:2",
)  # fmt: skip


class MailLog:
    """A log file with lines of many connections in it."""

    def __init__(self, folder: Path, ident: str = "perdition.imaps", *, debug: bool = False):
        self.path = folder / "mail.log"
        self._log = Log(open_target(str(self.path), ""), ident, debug=debug)
        self._log.batching = False
        terms = TrailTerms("IMAP4S", "143", log_passwd="always" if debug else "never")
        self._terms = terms

    def trail(self, hosts: tuple[str, str] = V4, port: int = 51234) -> Trail:
        """The lines of a client's connection, its addresses written as a worker writes them."""
        client: Address = (plain_host(hosts[0]), port)
        return Trail(self._log, self._terms, client, (plain_host(hosts[1]), 993))

    def login(
        self, failure: Reason | None, hosts: tuple[str, str] = V4, name: bytes = b"kim",
        authorisation: bytes = b"", port: int = 51234,
    ) -> None:  # fmt: skip
        """Write an Auth line."""
        trail = self.trail(hosts, port)
        login = Login(name, b'pass " word', authorisation)
        trail.name(login)
        trail.verdict(login, "ssl", "plaintext", "10.0.0.5:143", failure)

    def write_all_but_failures(self) -> None:
        """Write what says of nobody that he guesses."""
        for hosts in HOSTS:
            self.trail(hosts).connected()
            self.trail(hosts).closed_without_login("client gone")
            self.trail(hosts).over_limit("connection_limit", 1)
            trail = self.trail(hosts)
            trail.name(Login(b"kim", b"x"))
            trail.closed(1, 2)
            for reason in (None, *Reason):
                if reason is None or not reason.is_credentials:
                    self.login(reason, hosts)
        for name in NAMES:
            self.login(None, name=name)
            trail = self.trail()
            trail.name(Login(name, b"x"))
            trail.closed_without_login()

    @property
    def count(self) -> int:
        return len(self.path.read_text().splitlines())


@pytest.fixture
def matched(need: Callable[[str], str], tmp_path: Path) -> Callable[[MailLog, str], list[str]]:
    """Give what says which addresses a filter finds, one for each line that matches."""
    program = need("fail2ban-regex")
    filters = tmp_path / "filter.d"
    filters.mkdir()
    (filters / "common.conf").symlink_to(OWN_FILTERS / "common.conf")
    (filters / "perdition3.conf").symlink_to(OURS)

    def addresses(log: MailLog, name: str) -> list[str]:
        folder = filters if name.startswith("perdition3") else OWN_FILTERS
        done = subprocess.run(
            [program, "--out", "ip", log.path, f"{folder}/{name}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Unable" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout.split()

    return addresses


Matched = Callable[[MailLog, str], list[str]]
GUESSES = (Reason.REFUSED, Reason.LOCAL)


@pytest.mark.parametrize("ident", ["perdition.imaps", "perdition"])
def test_our_filter_finds_whoever_guesses(ident: str, tmp_path: Path, matched: Matched) -> None:
    log = MailLog(tmp_path, ident)
    expected = []
    for hosts in HOSTS:
        for reason in GUESSES:
            for port in (1, 5123, 65535):
                log.login(reason, hosts, port=port)
                expected.append(plain_host(hosts[0]).partition("%")[0])
    for name in NAMES:
        log.login(Reason.REFUSED, name=name)
        log.login(Reason.REFUSED, V6, name=name, authorisation=name)
        expected += [V4[0], V6[0]]
    assert matched(log, "perdition3.conf") == expected


def test_our_filter_finds_them_in_lines_with_a_password(tmp_path: Path, matched: Matched) -> None:
    log = MailLog(tmp_path, debug=True)
    for hosts in (V4, V6):
        log.login(Reason.REFUSED, hosts)
    assert 'passwd="pass \\" word"' in log.path.read_text()
    assert matched(log, "perdition3.conf") == [V4[0], V6[0]]


def test_our_filter_finds_nobody_else(tmp_path: Path, matched: Matched) -> None:
    log = MailLog(tmp_path)
    log.write_all_but_failures()
    assert log.count > 50
    assert matched(log, "perdition3.conf") == []
    assert matched(log, "perdition3[mode=aggressive]") == []


def test_our_filter_finds_scanners_when_asked_to(tmp_path: Path, matched: Matched) -> None:
    log = MailLog(tmp_path)
    for hosts in (V4, V6):
        log.login(Reason.REFUSED, hosts)
        log.trail(hosts).timed_out()
        log.trail(hosts).tls_failed("SSL connection to client", "wrong version number")
        log.trail(hosts).tls_failed("TLS connection", "timeout")
    assert matched(log, "perdition3.conf") == [V4[0], V6[0]]
    assert matched(log, "perdition3[mode=aggressive]") == [V4[0]] * 4 + [V6[0]] * 4


def test_fail2bans_own_filter_works(tmp_path: Path, matched: Matched) -> None:
    log = MailLog(tmp_path)
    log.write_all_but_failures()
    for hosts in (V4, MAPPED):
        for reason in GUESSES:
            log.login(reason, hosts)
    assert matched(log, "perdition.conf") == [V4[0]] * 4
