"""Every ssl_mode of every protocol, to a real Dovecot: what is let through, and what never is."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines

USER, PASSWORD = "ann", "canary-ann"
LISTEN = ("", "ssl_listen", "tls_listen", "tls_listen_force")
OUTGOING = ("", "ssl_outgoing", "tls_outgoing", "tls_outgoing_force")
WORDS = {"": "plaintext", "ssl": "ssl", "tls": "starttls"}


@dataclass(frozen=True)
class Spoken:
    """How a client of one protocol talks; each function returns whether the answer was yes."""

    command: str
    greeting: Callable[[Lines], bool]
    start_tls: Callable[[Lines], bool]
    log_in: Callable[[Lines], bool]
    work: Callable[[Lines], bool]
    bye: str


def imap_says(command: str) -> Callable[[Lines], bool]:
    return lambda lines: lines.ask(f"a {command}")[-1].startswith("a OK")


def pop_says(*commands: str) -> Callable[[Lines], bool]:
    def talk(lines: Lines) -> bool:
        for command in commands:
            lines.say(command)
            answer = lines.hear()
        return answer.startswith("+OK")

    return talk


def sieve_says(command: str) -> Callable[[Lines], bool]:
    def talk(lines: Lines) -> bool:
        if command:
            lines.say(command)
        answer = lines.hear()
        while answer.startswith('"'):  # capabilities
            answer = lines.hear()
        return answer.startswith("OK")

    return talk


PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
PROTOCOLS = {
    "imap4": Spoken(
        "perdition.imap4", lambda lines: lines.hear().startswith("* OK"), imap_says("STARTTLS"),
        imap_says(f"LOGIN {USER} {PASSWORD}"), imap_says("SELECT INBOX"), "z LOGOUT",
    ),
    "pop3": Spoken(
        "perdition.pop3", lambda lines: lines.hear().startswith("+OK"), pop_says("STLS"),
        pop_says(f"USER {USER}", f"PASS {PASSWORD}"), pop_says("STAT"), "QUIT",
    ),
    "managesieve": Spoken(
        "perdition.managesieve", sieve_says(""), sieve_says("STARTTLS"),
        sieve_says(f'AUTHENTICATE "PLAIN" "{PLAIN}"'), sieve_says("LISTSCRIPTS"), "LOGOUT",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def dovecot(folder: Path, certificates: Path, need: Callable[[str], str]) -> Iterator[Dovecot]:
    """Dovecot with all protocols and TLS."""
    program = need("dovecot")
    with Dovecot(program, folder / "dovecot", {USER: PASSWORD}, certificates) as server:
        yield server


def port_of(dovecot: Dovecot, protocol: str, outgoing: str) -> int:
    """Where Dovecot listens for it."""
    if outgoing.startswith("ssl"):
        return {"imap4": dovecot.imaps, "pop3": dovecot.pop3s}[protocol]
    return {"imap4": dovecot.port, "pop3": dovecot.pop3, "managesieve": dovecot.sieve}[protocol]


def daemon_for(
    folder: Path, dovecot: Dovecot, certificates: Path, protocol: str, *modes: str
) -> Daemon:
    """A daemon of a protocol in the given modes."""
    outgoing = next((mode for mode in modes if "outgoing" in mode), "")
    return Daemon(
        folder, "outgoing_server 127.0.0.1",
        f"outgoing_port {port_of(dovecot, protocol, outgoing)}", "workers 1", "failure_delay 0",
        f"ssl_mode {','.join(mode for mode in modes if mode) or 'none'}",
        f"ssl_cert_file {certificates}/cert.pem", f"ssl_key_file {certificates}/key.pem",
        f"ssl_ca_file {certificates}/ca.pem", "debug",
        command=PROTOCOLS[protocol].command,
    )  # fmt: skip


def secure(lines: Lines, context: ssl.SSLContext) -> Lines:
    """The same connection under TLS."""
    return Lines(context.wrap_socket(lines.sock, server_hostname="localhost"))


@pytest.mark.parametrize("outgoing", OUTGOING)
@pytest.mark.parametrize("listen", LISTEN)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_login_in_every_mode(  # noqa: PLR0917
    dovecot: Dovecot, certificates: Path, tmp_path: Path, protocol: str, listen: str, outgoing: str
) -> None:
    if protocol == "managesieve" and outgoing == "ssl_outgoing":
        outgoing = "tls_outgoing"  # nobody speaks ManageSieve behind a handshake of its own
    spoken = PROTOCOLS[protocol]
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    with daemon_for(tmp_path, dovecot, certificates, protocol, listen, outgoing) as daemon:
        lines = Lines.to(daemon.port, context if listen == "ssl_listen" else None)
        assert spoken.greeting(lines)
        if listen == "tls_listen_force":
            assert not spoken.log_in(lines)
        if listen.startswith("tls"):
            assert spoken.start_tls(lines)
            lines = secure(lines, context)
            if protocol == "managesieve":
                assert spoken.greeting(lines)  # RFC 5804: capabilities again
        assert spoken.log_in(lines), daemon.log.read_text()
        assert spoken.work(lines)
        lines.say(spoken.bye)
        lines.rest()
        lines.__exit__()
        daemon.wait_for_log(
            f'client-secure={WORDS[listen[:3]]} .*authentication_id="{USER}" .*'
            f'server-secure={WORDS[outgoing[:3]]} status="ok"$'
        )
        assert PASSWORD not in daemon.log.read_text()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_credentials_in_clear_to_a_server_without_tls(
    folder: Path, certificates: Path, tmp_path: Path, protocol: str, need: Callable[[str], str]
) -> None:
    spoken = PROTOCOLS[protocol]
    with Dovecot(need("dovecot"), folder / protocol, {USER: PASSWORD}) as plain:
        daemon = daemon_for(tmp_path, plain, certificates, protocol, "tls_outgoing_force")
        with daemon, Lines.to(daemon.port) as lines:
            assert spoken.greeting(lines)
            assert not spoken.log_in(lines)
            why = "TLS not present" if protocol == "pop3" else "Connection Negotiation Failure"
            daemon.wait_for_log(f'status="failed: {why}"$')  # as 2.2 says it


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_whose_certificate_is_not_trusted(
    dovecot: Dovecot, certificates: Path, tmp_path: Path, protocol: str
) -> None:
    spoken = PROTOCOLS[protocol]
    daemon = daemon_for(tmp_path, dovecot, certificates, protocol, "tls_outgoing_force")
    daemon.options = [line for line in daemon.options if not line.startswith("ssl_ca_file")]
    daemon.write()
    with daemon, Lines.to(daemon.port) as lines:
        assert spoken.greeting(lines)
        assert not spoken.log_in(lines)
        daemon.wait_for_log("certificate refused: unable to get local issuer certificate")
        daemon.wait_for_log('status="failed: Connection Negotiation Failure"$')
        assert PASSWORD not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("protocol", "word"), [("imap4", "a STARTTLS"), ("pop3", "STLS"), ("managesieve", "STARTTLS")]
)
def test_clear_text_behind_starttls_ends_the_connection(
    dovecot: Dovecot, certificates: Path, tmp_path: Path, protocol: str, word: str
) -> None:
    daemon = daemon_for(tmp_path, dovecot, certificates, protocol, "tls_listen")
    with daemon, Lines.to(daemon.port) as lines:
        assert PROTOCOLS[protocol].greeting(lines)
        lines.say(f"{word}\r\nb NOOP")
        said = lines.rest()
        assert b"NOOP" not in said
        daemon.wait_for_log(r"^Closing NULL session: .*Input behind (STARTTLS|STLS) in clear text")
