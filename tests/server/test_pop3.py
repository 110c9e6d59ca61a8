"""POP3 over sockets: Python's own client before a real Dovecot."""

from __future__ import annotations

import poplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port

USERS = {"ann": "canary-ann", "bob": " canary  bob "}


@pytest.fixture(scope="module")
def dovecot(folder: Path, need: Callable[[str], str], certificates: Path) -> Iterator[Dovecot]:
    """Dovecot with two users, POP3 with STLS."""
    with Dovecot(need("dovecot"), folder / "dovecot", USERS, certificates) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(folder: Path, dovecot: Dovecot, certificates: Path) -> Iterator[Daemon]:
    """Ours before Dovecot, with STLS for clients."""
    with ours(folder / "ours", dovecot.pop3, certificates, "debug", "connection_logging") as it:
        yield it


def ours(folder: Path, port: int, certificates: Path, *options: str) -> Daemon:
    """A daemon with one worker before a server, with STLS for clients."""
    return Daemon(
        folder, "outgoing_server 127.0.0.1", f"outgoing_port {port}", "workers 1",
        "failure_delay 0", "ssl_mode tls_listen", f"ssl_cert_file {certificates / 'cert.pem'}",
        f"ssl_key_file {certificates / 'key.pem'}", *options, command="perdition.pop3",
    )  # fmt: skip


@contextmanager
def client(daemon: Daemon, certificates: Path) -> Iterator[poplib.POP3]:
    """Python's client, with STLS."""
    pop = poplib.POP3("127.0.0.1", daemon.port, timeout=10)
    try:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        pop.host = "localhost"  # whom the certificate names
        assert pop.stls(context) == b"+OK Begin TLS negotiation"
        yield pop
    finally:
        pop.close()


# -- Python's client, before Dovecot ----------------------------------------------------------


@pytest.mark.parametrize("user", USERS)
def test_a_client_logs_in_and_works(daemon: Daemon, certificates: Path, user: str) -> None:
    with client(daemon, certificates) as pop:
        assert set(pop.capa()) == {"UIDL", "USER", "SASL", "RESP-CODES"}
        assert pop.user(user) == f"+OK USER {user} set".encode()
        assert pop.pass_(USERS[user]) == b"+OK You are so in"
        assert pop.stat() == (0, 0)
        assert "TOP" in pop.capa()  # the server's
        assert pop.quit() == b"+OK Logging out."


def test_a_refused_client_hears_the_server_and_tries_again(
    daemon: Daemon, certificates: Path
) -> None:
    with client(daemon, certificates) as pop:
        pop.user("ann")
        with pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\] Authentication failed\."):
            pop.pass_("wrong")
        pop.user("ann")
        assert pop.pass_("canary-ann") == b"+OK You are so in"
        assert pop.quit() == b"+OK Logging out."


@pytest.mark.parametrize(
    "dialogue",
    [
        [("AUTH PLAIN AGFubgBjYW5hcnktYW5u", "+OK You are so in")],
        [("AUTH PLAIN", "+ "), ("AGFubgBjYW5hcnktYW5u", "+OK You are so in")],
        [
            ("AUTH LOGIN", "+ VXNlcm5hbWU6"),
            ("YW5u", "+ UGFzc3dvcmQ6"),
            ("Y2FuYXJ5LWFubg==", "+OK You are so in"),
        ],
        # An authorisation id goes to the server: to this one, ann may not be bob.
        [("AUTH PLAIN Ym9iAGFubgBjYW5hcnktYW5u", "-ERR [AUTH] Authentication failed.")],
    ],
)
def test_auth(daemon: Daemon, dialogue: list[tuple[str, str]]) -> None:
    with Lines.to(daemon.port) as lines:
        lines.hear()
        for said, heard in dialogue:
            lines.say(said)
            assert lines.hear() == heard
        lines.say("QUIT")
        assert lines.hear().startswith("+OK ")


def test_commands_behind_the_login_reach_the_server(daemon: Daemon) -> None:
    with Lines.to(daemon.port) as lines:
        lines.say("USER ann\r\nPASS canary-ann\r\nSTAT\r\nNOOP\r\nQUIT")
        assert lines.hear().startswith("+OK POP3 perdition ready on ")
        heard = [lines.hear() for _ in range(5)]
        assert heard[:3] == ["+OK USER ann set", "+OK You are so in", "+OK 0 0"]
        assert heard[3].startswith("+OK")
        assert heard[4] == "+OK Logging out."
        assert lines.rest() == b""


@pytest.mark.parametrize("mode", ["tls_outgoing", "tls_outgoing_force"])
def test_the_server_has_the_password_in_tls_only(
    dovecot: Dovecot, certificates: Path, tmp_path: Path, mode: str
) -> None:
    options = (f"ssl_mode tls_listen,{mode}", f"ssl_ca_file {certificates / 'ca.pem'}")
    with (
        ours(tmp_path, dovecot.pop3, certificates, *options) as daemon,
        client(daemon, certificates) as pop,
    ):
        pop.user("ann")
        assert pop.pass_("canary-ann") == b"+OK You are so in"
        assert pop.stat() == (0, 0)
        daemon.wait_for_log(r'client-secure=starttls .* server-secure=starttls status="ok"')


def test_a_server_with_an_unknown_certificate_gets_no_password(
    dovecot: Dovecot, certificates: Path, tmp_path: Path
) -> None:
    options = ("ssl_mode tls_listen,tls_outgoing", "debug", "connection_logging")
    with (
        ours(tmp_path, dovecot.pop3, certificates, *options) as daemon,
        client(daemon, certificates) as pop,
    ):
        pop.user("ann")
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\] failed: Connection Nego"):
            pop.pass_("canary-ann")
        daemon.wait_for_log("certificate refused: unable to get local issuer certificate")
    assert 'SELF: "USER ann"' not in daemon.log.read_text()


def test_input_behind_stls_in_clear_text_ends_the_connection(daemon: Daemon) -> None:
    with Lines.to(daemon.port) as lines:
        lines.hear()
        lines.say("STLS\r\nUSER mallory")
        assert lines.rest() == b"-ERR Input behind STLS in clear text\r\n"


def test_a_server_that_is_not_there_is_a_temporary_failure(
    certificates: Path, tmp_path: Path
) -> None:
    with (
        ours(tmp_path, free_port(), certificates) as daemon,
        client(daemon, certificates) as pop,
    ):
        pop.user("ann")
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\] failed: Could not conn"):
            pop.pass_("canary-ann")
        assert pop.quit() == b"+OK QUIT"


def test_a_daemon_before_itself_ends_at_once(certificates: Path, tmp_path: Path) -> None:
    daemon = ours(tmp_path, 0, certificates)
    daemon.write(f"outgoing_port {daemon.port}")
    with daemon, client(daemon, certificates) as pop:
        pop.user("ann")
        with pytest.raises(poplib.error_proto, match="failed: Connection Negotiation Failure"):
            pop.pass_("canary-ann")
    assert len([line for line in daemon.lines if line.startswith("Connect:")]) == 2


def test_the_log_has_no_password(daemon: Daemon) -> None:
    with Lines.to(daemon.port) as lines:
        lines.say("USER ann\r\nPASS canary-ann\r\nQUIT")
        assert lines.rest().endswith(b"+OK Logging out.\r\n")
    daemon.wait_for_log('REAL: "\\+OK Logged in')
    log = daemon.log.read_text()
    assert 'SELF: "PASS ***' in log
    assert "canary" not in log
