"""The PROXY protocol: from HAProxy, from strangers, in pieces, and toward a Dovecot."""

from __future__ import annotations

import imaplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import end, free_port, listens, wait_for

from perdition.errors import WireError
from perdition.proxy_header import Address, read, size, write

CLIENT, LOCAL = ("192.0.2.1", 40000), ("192.0.2.2", 143)
SIX = (("2001:db8::1", 1), ("2001:db8::2", 2))
PASSWORD = "canary-proxy"


@pytest.fixture(scope="module")
def dovecot(need: Callable[[str], str], folder: Path) -> Iterator[Dovecot]:
    with Dovecot(need("dovecot"), folder / "dovecot", {"ann": PASSWORD}) as running:
        yield running


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ends", [(CLIENT, LOCAL), SIX, (None, None)], ids=["4", "6", "none"])
def test_what_is_written_is_read(version: int, ends: tuple[Address | None, Address | None]) -> None:
    header = write(version, *ends)
    assert read(header) == (None if ends[0] is None else ends)
    assert [size(header[:cut]) for cut in range(len(header))] == [0] * len(header)
    assert size(header + b"* OK") == len(header)


def test_one_family_for_both_ends() -> None:
    assert read(write(1, CLIENT, SIX[1])) == (CLIENT, SIX[1])


@pytest.mark.parametrize(
    "header",
    [
        b"a LOGIN x y\r\n", b"PROXX", b"\x16\x03\x01", b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 1\r\n", b"PROXY TCP4 1.2.3.999 1.2.3.4 1 1\r\n",
        b"PROXY TCP6 fe80::1%a\x1bb ::1 1 1\r\n",
        b"PROXY " + b"x" * 200, b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04" + bytes(4), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ],
    ids=repr,
)  # fmt: skip
def test_what_makes_no_sense_is_refused(header: bytes) -> None:
    with pytest.raises(WireError):
        whole = size(header)
        assert whole
        read(header[:whole])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    for prefix in (b"", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21"):
        try:
            if whole := size(prefix + data):
                read((prefix + data)[:whole])
        except WireError:
            pass


def daemon(where: Path, server: int, *options: str) -> Daemon:
    return Daemon(
        where, f"outgoing_server 127.0.0.1:{server}", "failure_delay 0", "workers 1", *options
    )


TRUSTED = "proxy_protocol_networks 127.0.0.1,192.0.2.0/24"


def test_the_address_told_is_the_one_in_the_log(dovecot: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", dovecot.port, TRUSTED) as proxy:
        for header in (write(1, CLIENT, LOCAL), write(2, CLIENT, LOCAL)):
            with Lines.to(proxy.port) as lines:
                for byte in header[:-1]:  # in pieces, and its end with what follows it
                    lines.sock.sendall(bytes([byte]))
                lines.sock.sendall(header[-1:] + b"a LOGIN ann guess\r\n")
                assert lines.hear().startswith("* OK")
                assert lines.hear().startswith("a NO [AUTHENTICATIONFAILED]")
        said = proxy.wait_for_log("^Auth:", 2)
    assert all("Auth: 192.0.2.1:40000->192.0.2.2:143 " in line for line in said)


def test_the_sender_itself_keeps_its_address(dovecot: Dovecot, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", dovecot.port, TRUSTED) as proxy:
        with Lines.to(proxy.port) as lines:
            lines.sock.sendall(write(2, None, None))
            assert lines.hear().startswith("* OK")
        proxy.wait_for_log(r"^Connect:  127\.0\.0\.1:")


def test_strangers_and_clients_without_a_header_are_refused(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    with daemon(tmp_path / "p", dovecot.port, "proxy_protocol_networks 192.0.2.0/24") as proxy:
        with Lines.to(proxy.port) as lines:
            assert lines.rest() == b""
        proxy.wait_for_log(r"^refused: 127\.0\.0\.1:\d+->.* not in proxy_protocol_networks")
    with daemon(tmp_path / "q", dovecot.port, TRUSTED, "authenticate_timeout 1") as proxy:
        with Lines.to(proxy.port) as lines:
            lines.say("a LOGIN ann x")
            with suppress(ConnectionResetError):  # what it sent is not read
                assert lines.rest() == b""
        proxy.wait_for_log("^refused: .* no PROXY header")
        with Lines.to(proxy.port) as silent:
            assert silent.rest() == b"", "a header has its time as well"


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("tls", [False, True])
def test_behind_haproxy_in_front_of_dovecot(
    version: str, tls: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both legs: the client's address arrives at Dovecot, through two proxies."""
    need, dovecot, certificates = map(request.getfixturevalue, ("need", "dovecot", "certificates"))
    own = free_port()
    secure = ("ssl_mode ssl_listen", f"ssl_cert_file {certificates}/cert.pem",
              f"ssl_key_file {certificates}/key.pem") if tls else ()  # fmt: skip
    outgoing = f"proxy_protocol_outgoing {1 if version == 'send-proxy' else 2}"
    with daemon(tmp_path / "p", dovecot.haproxy, TRUSTED, outgoing, *secure) as proxy:
        (tmp_path / "haproxy.cfg").write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n"
            f"  timeout server 20s\nlisten x\n  bind 127.0.0.1:{own}\n"
            f"  server perdition 127.0.0.1:{proxy.port} {version}\n"
        )
        balancer = subprocess.Popen([need("haproxy"), "-db", "-f", tmp_path / "haproxy.cfg"])
        try:
            wait_for(lambda: listens(own), "HAProxy is silent")
            context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
            imap: imaplib.IMAP4 = (
                imaplib.IMAP4_SSL("localhost", own, ssl_context=context)
                if tls
                else imaplib.IMAP4("localhost", own)
            )
            with imap:
                port = imap.sock.getsockname()[1]
                imap.login("ann", PASSWORD)
                assert imap.select()[0] == "OK"
        finally:
            end(balancer)
        proxy.wait_for_log(rf"^Auth: 127\.0\.0\.1:{port}->127\.0\.0\.1:{own} .*ok")
    assert "rip=127.0.0.1, lip=127.0.0.1" in (dovecot.folder / "dovecot.log").read_text()


def test_dovecot_hears_the_clients_address(dovecot: Dovecot, tmp_path: Path) -> None:
    outgoing = "proxy_protocol_outgoing 2"
    with (
        daemon(tmp_path / "p", dovecot.haproxy, TRUSTED, outgoing) as proxy,
        Lines.to(proxy.port) as lines,
    ):
        lines.sock.sendall(write(1, CLIENT, LOCAL))
        lines.hear()
        assert lines.ask(f"a LOGIN ann {PASSWORD}")[-1].startswith("a OK")
    assert "rip=192.0.2.1, lip=192.0.2.2" in (dovecot.folder / "dovecot.log").read_text()


def test_a_header_goes_ahead_of_tls_toward_the_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        options = ("proxy_protocol_outgoing 1", "ssl_mode ssl_outgoing")
        with daemon(tmp_path / "p", port, *options) as proxy, Lines.to(proxy.port) as lines:
            lines.hear()
            lines.say("a LOGIN ann x")
            sock, _ = server.accept()
            client = lines.sock.getsockname()[1]
            with Lines(sock) as heard:
                told = f"PROXY TCP4 127.0.0.1 127.0.0.1 {client} {proxy.port}"
                assert heard.hear() == told
                assert heard._reader.read(2) == b"\x16\x03"
