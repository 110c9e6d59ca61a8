"""A Dovecot is told who the client is, by ID or XCLIENT, and believes it where it trusts us."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.server.test_modes import PASSWORD, PROTOCOLS, USER
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

from perdition.proxy_header import Address, write

TRUSTED = "proxy_protocol_networks 127.0.0.0/8"
FOUR = (("192.0.2.1", 40000), ("192.0.2.2", 143))
SIX = (("2001:db8::1", 40001), ("2001:db8::2", 993))


@pytest.fixture(scope="module")
def trusting(need: Callable[[str], str], folder: Path, certificates: Path) -> Iterator[Dovecot]:
    with Dovecot(
        need("dovecot"), folder / "trusting", {USER: PASSWORD}, certificates, "127.0.0.0/8"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def doubting(need: Callable[[str], str], folder: Path) -> Iterator[Dovecot]:
    with Dovecot(need("dovecot"), folder / "doubting", {USER: PASSWORD}) as running:
        yield running


def port_of(server: Dovecot, protocol: str) -> int:
    return {"imap4": server.port, "pop3": server.pop3, "managesieve": server.sieve}[protocol]


def logins(server: Dovecot) -> list[str]:
    lines = (server.folder / "dovecot.log").read_text().splitlines()
    return [line for line in lines if "-login: Info: Login: " in line]


def log_in(
    proxy: Daemon, protocol: str, ends: tuple[Address, Address], password: str = PASSWORD
) -> None:
    spoken = PROTOCOLS[protocol]
    with Lines.to(proxy.port) as lines:
        lines.sock.sendall(write(2, *ends))
        assert spoken.greeting(lines)
        assert spoken.log_in(lines), proxy.log.read_text()
        assert spoken.work(lines)
        lines.say(spoken.bye)
        lines.rest()


def new_login(server: Dovecot, before: list[str]) -> str:
    wait_for(lambda: len(logins(server)) > len(before), "Dovecot logs no login")
    return logins(server)[len(before)]


@pytest.mark.parametrize("tls", ["", "ssl_mode tls_outgoing_force"])
@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_trusts_us_logs_the_client(
    trusting: Dovecot, tmp_path: Path, protocol: str, ends: tuple[Address, Address], tls: str
) -> None:
    proxy = Daemon(
        tmp_path / "p", f"outgoing_server 127.0.0.1:{port_of(trusting, protocol)}", TRUSTED,
        "log_format json", "ssl_no_cert_verify", "ssl_no_cn_verify", tls, "workers 1",
        command=PROTOCOLS[protocol].command,
    )  # fmt: skip
    before = logins(trusting)
    with proxy:
        log_in(proxy, protocol, ends)
        line = new_login(trusting, before)
        own = next(
            fields
            for fields in map(json.loads, proxy.log.read_text().splitlines())
            if fields.get("event") == "auth"
        )
    reached = ends[1][0] if protocol == "imap4" else "127.0.0.1"  # XCLIENT has no word for it
    assert f"rip={ends[0][0]}, lip={reached}," in line
    assert f"session=<{own['session']}>" in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_does_not_trust_us_lets_the_user_in_all_the_same(
    doubting: Dovecot, tmp_path: Path, protocol: str
) -> None:
    proxy = Daemon(
        tmp_path / "p", f"outgoing_server 127.0.0.1:{port_of(doubting, protocol)}", TRUSTED,
        "workers 1", command=PROTOCOLS[protocol].command,
    )  # fmt: skip
    before = logins(doubting)
    with proxy:
        log_in(proxy, protocol, FOUR)
        line = new_login(doubting, before)
    assert "rip=127.0.0.1, lip=127.0.0.1," in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_never(trusting: Dovecot, tmp_path: Path, protocol: str) -> None:
    proxy = Daemon(
        tmp_path / "p", f"outgoing_server 127.0.0.1:{port_of(trusting, protocol)}", TRUSTED,
        "forward_client never", "workers 1", command=PROTOCOLS[protocol].command,
    )  # fmt: skip
    before = logins(trusting)
    with proxy:
        log_in(proxy, protocol, FOUR)
        line = new_login(trusting, before)
    assert "rip=127.0.0.1, lip=127.0.0.1," in line


def test_sessions_have_names_of_their_own(trusting: Dovecot, tmp_path: Path) -> None:
    before = logins(trusting)
    with Daemon(
        tmp_path / "p", f"outgoing_server 127.0.0.1:{trusting.port}", TRUSTED, "workers 1"
    ) as proxy:
        for _ in range(3):
            log_in(proxy, "imap4", FOUR)
    wait_for(lambda: len(logins(trusting)) == len(before) + 3, "Dovecot logs no login")
    names = {re.findall(r"session=<(.*?)>", line)[0] for line in logins(trusting)[-3:]}
    assert len(names) == 3
