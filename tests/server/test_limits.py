"""Limits before the login, as clients meet them: of an address, of guesses, of patience."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

from perdition.proxy_header import write

USERS = {"ann": "canary-ann", "bob": "canary-bob"}
TRUSTED = "proxy_protocol_networks 127.0.0.0/8"
AT = "192.0.2.9", 143
WRONG = "AGFubgB3cm9uZw=="
REFUSED = {
    "imap4": "* BYE [UNAVAILABLE] Too many connections, try again later",
    "pop3": "-ERR [SYS/TEMP] Too many connections, try again later",
    "managesieve": 'BYE (TRYLATER) "Too many connections, try again later"',
}


@pytest.fixture(scope="module")
def server(need: Callable[[str], str], folder: Path) -> Iterator[Dovecot]:
    with Dovecot(need("dovecot"), folder / "dovecot", USERS) as running:
        yield running


def daemon(where: Path, server: Dovecot, *options: str, command: str = "perdition.imap4") -> Daemon:
    return Daemon(where, f"outgoing_server 127.0.0.1:{server.port}", *options, command=command)


def come(proxy: Daemon, host: str) -> Lines:
    """A client at `host`, as a load balancer tells of it."""
    lines = Lines.to(proxy.port)
    lines.sock.sendall(write(2, (host, 40000), AT if "." in host else ("2001:db8::9", 143)))
    return lines


# -- address_connection_limit ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", REFUSED)
def test_one_client_too_many_of_an_address(server: Dovecot, tmp_path: Path, protocol: str) -> None:
    proxy = daemon(
        tmp_path / "p", server, "workers 3", "address_connection_limit 4", TRUSTED,
        command=f"perdition.{protocol}",
    )  # fmt: skip
    with proxy:
        for host in ("192.0.2.1", "2001:db8::1"):
            inside = [come(proxy, host) for _ in range(4)]
            assert all("Too many" not in lines.hear() for lines in inside)
            for _ in range(6):  # whichever worker they come to
                with come(proxy, host) as lines:
                    assert lines.hear() == REFUSED[protocol]
                    assert lines.rest() == b""
            with come(proxy, "192.0.2.77") as lines:
                assert lines.hear() != REFUSED[protocol]
            for lines in inside:
                lines.__exit__()
        proxy.wait_for_log(
            r"^address_connection_limit 4 reached: client refused: 192\.0\.2\.1:40000->", 6
        )
        assert not [line for line in proxy.lines if line.startswith("Connect:  192.0.2.1:")][4:]
    assert len([line for line in proxy.lines if "limit 4 reached" in line]) == 12


def test_addresses_of_one_ipv6_network_count_together(server: Dovecot, tmp_path: Path) -> None:
    with (
        daemon(tmp_path / "p", server, "workers 2", "address_connection_limit 1", TRUSTED) as proxy,
        come(proxy, "2001:db8::1") as one,
    ):
        assert one.hear().startswith("* OK")
        with come(proxy, "2001:db8::ffff") as other:
            assert other.hear() == REFUSED["imap4"]
        with come(proxy, "2001:db8:0:1::1") as neighbour:
            assert neighbour.hear().startswith("* OK")


def test_who_is_logged_in_counts_no_more(server: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", server, "workers 2", "address_connection_limit 1") as proxy:
        sessions = []
        for _ in range(5):
            lines = Lines.to(proxy.port)
            assert lines.hear().startswith("* OK")
            assert lines.ask("a LOGIN ann canary-ann")[-1] == "a OK You are so in"
            sessions.append(lines)
        for lines in sessions:
            assert lines.ask("b NOOP")[-1].startswith("b OK")
            lines.__exit__()


def test_the_place_of_a_client_that_goes_is_free(server: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", server, "workers 2", "address_connection_limit 1") as proxy:
        for number in range(4):
            with Lines.to(proxy.port) as lines:
                assert lines.hear().startswith("* OK")
            proxy.wait_for_log("^Closing NULL session", number + 1)


def test_what_a_killed_worker_held_is_given_back(server: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", server, "workers 1", "address_connection_limit 2") as proxy:
        inside = [Lines.to(proxy.port) for _ in range(2)]
        assert all(lines.hear().startswith("* OK") for lines in inside)
        before = proxy.workers
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: proxy.workers not in (before, []), "no new worker")
        with Lines.to(proxy.port) as lines:
            assert lines.hear().startswith("* OK")
        for lines in inside:
            lines.__exit__()


def test_a_reload_keeps_count_of_who_is_still_there(server: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", server, "workers 2", "address_connection_limit 2") as proxy:
        inside = [Lines.to(proxy.port) for _ in range(2)]
        assert all(lines.hear().startswith("* OK") for lines in inside)
        proxy.reload("ok_line hello")
        with Lines.to(proxy.port) as lines:
            assert lines.hear() == REFUSED["imap4"]
        assert inside[0].ask("a LOGIN ann canary-ann")[-1] == "a OK You are so in"
        with Lines.to(proxy.port) as lines:
            assert lines.hear().startswith("* OK")
        for lines in inside:
            lines.__exit__()


def test_no_handshake_for_one_too_many(server: Dovecot, tmp_path: Path, certificates: Path) -> None:
    secure = ("ssl_mode ssl_listen", f"ssl_cert_file {certificates}/cert.pem",
              f"ssl_key_file {certificates}/key.pem")  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with daemon(
        tmp_path / "p", server, "workers 1", "address_connection_limit 1", *secure
    ) as proxy:
        with Lines.to(proxy.port, context) as lines:
            assert lines.hear().startswith("* OK")
            with pytest.raises(OSError):
                Lines.to(proxy.port, context)
        proxy.wait_for_log("^address_connection_limit 1 reached: client refused: 127")


# -- failure_delay --------------------------------------------------------------------------------


def took(lines: Lines, command: str, answer: str) -> float:
    """Seconds until the answer to a login."""
    started = time.monotonic()
    assert lines.ask(command)[-1].startswith(answer)
    return time.monotonic() - started


def test_each_failure_doubles_the_wait_wherever_the_client_connects(
    server: Dovecot, tmp_path: Path
) -> None:
    delays = "failure_delay 1", "failure_delay_limit 2"
    with daemon(tmp_path / "p", server, "workers 2", *delays) as proxy:
        waits = []
        for _ in range(3):
            with Lines.to(proxy.port) as lines:
                lines.hear()
                waits.append(took(lines, "a LOGIN ann wrong", "a NO [AUTHENTICATIONFAILED]"))
        # Dovecot takes half a second of its own.
        assert 1 <= waits[0] < 2 <= waits[1] < 4 and 2 <= waits[2] < 4


def test_guesses_side_by_side_wait_for_each_other_and_nobody_else_waits(
    server: Dovecot, tmp_path: Path
) -> None:
    with daemon(tmp_path / "p", server, "workers 2", "failure_delay 2", TRUSTED) as proxy:
        guess, right, other, elsewhere = (
            come(proxy, host) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")
        )
        for lines in (guess, right, other, elsewhere):
            lines.hear()
        with ThreadPoolExecutor(3) as pool:
            started = time.monotonic()
            guess.say("a LOGIN ann wrong")
            proxy.wait_for_log('authentication_id="ann" .*Re-Authentication Failure')
            waits = pool.submit(took, right, "a LOGIN ann canary-ann", "a OK")
            assert took(other, "a LOGIN bob canary-bob", "a OK") < 1
            assert took(elsewhere, "a LOGIN ann canary-ann", "a OK") < 1
            assert guess.hear().startswith("a NO")
            waits.result()
            assert time.monotonic() - started >= 2 - 0.1, (
                "ann's login is tried when the wait is over"
            )
        with come(proxy, "192.0.2.1") as again:  # forgiven
            again.hear()
            assert took(again, "a LOGIN ann canary-ann", "a OK") < 1
        for lines in (guess, right, other, elsewhere):
            lines.__exit__()


def test_troubles_that_pass_cost_no_wait(server: Dovecot, tmp_path: Path) -> None:
    proxy = Daemon(tmp_path / "p", "outgoing_server 127.0.0.1:1", "failure_delay 5")
    with proxy, Lines.to(proxy.port) as lines:
        lines.hear()
        assert took(lines, "a LOGIN ann canary-ann", "a NO [UNAVAILABLE]") < 2


def test_a_wait_ends_with_authenticate_timeout(server: Dovecot, tmp_path: Path) -> None:
    options = "failure_delay 10", "authenticate_timeout 1"
    with daemon(tmp_path / "p", server, *options) as proxy, Lines.to(proxy.port) as lines:
        lines.hear()
        lines.say("a LOGIN ann wrong")
        assert lines.hear().startswith("* BYE Timeout")


def test_inetd_mode_waits_too(server: Dovecot, tmp_path: Path) -> None:
    proxy = daemon(tmp_path / "p", server, "failure_delay 1")
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [BIN / "perdition.imap4", "--config_file", proxy.config, "--inetd_mode"],
        stdin=theirs.fileno(), stdout=theirs.fileno(),
    )  # fmt: skip
    theirs.close()
    with Lines(ours) as lines:
        lines.hear()
        waits = [took(lines, "a LOGIN ann wrong", "a NO") for _ in range(2)]
    process.wait(10)
    assert 1 <= waits[0] < 2 <= waits[1]


# -- what one connection may cost -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "command", "goodbye"),
    [
        ("imap4", "a FROBNICATE", "* BYE Too many bad commands"),
        ("pop3", "FROBNICATE", "-ERR Too many bad commands"),
        ("managesieve", "FROBNICATE", 'BYE "Too many bad commands"'),
    ],
)
def test_bad_commands(
    server: Dovecot, tmp_path: Path, protocol: str, command: str, goodbye: str
) -> None:
    options = "bad_command_limit 3", "workers 1"
    with daemon(tmp_path / "p", server, *options, command=f"perdition.{protocol}") as proxy:
        with Lines.to(proxy.port) as lines:
            for _ in range(3):
                lines.say(command)
            assert lines.rest().decode().splitlines()[-1] == goodbye
        proxy.wait_for_log(r"^Closing NULL session: .* \(Too many bad commands\)$")


@pytest.mark.parametrize(
    ("protocol", "commands", "goodbye"),
    [
        ("imap4", ["a LOGIN ann wrong"], "* BYE Too many failed logins"),
        ("pop3", ["USER ann", "PASS wrong"], "-ERR Too many failed logins"),
        ("managesieve", [f'AUTHENTICATE "PLAIN" "{WRONG}"'], 'BYE "Too many failed logins"'),
    ],
)
def test_failed_logins(
    server: Dovecot, tmp_path: Path, protocol: str, commands: list[str], goodbye: str
) -> None:
    ports = {"imap4": server.port, "pop3": server.pop3, "managesieve": server.sieve}
    proxy = Daemon(
        tmp_path / "p", f"outgoing_server 127.0.0.1:{ports[protocol]}", "failed_login_limit 2",
        "failure_delay 0", "workers 1", command=f"perdition.{protocol}",
    )  # fmt: skip
    with proxy, Lines.to(proxy.port) as lines:
        for command in commands * 2:
            lines.say(command)
        assert lines.rest().decode().splitlines()[-1] == goodbye
        proxy.wait_for_log('status="failed: Re-Authentication Failure"$', 2)
        proxy.wait_for_log(r"^Closing NULL session: .* \(Too many failed logins\)$")
