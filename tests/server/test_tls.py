"""TLS toward the client: certificates, versions, resumption, and what is said when it fails."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.servers.daemon import Daemon, within
from tests.servers.lines import Lines
from tests.servers.ports import listens

PASSPHRASE = "canary phrase"


def options(certificates: Path, *more: str, key: Path | None = None) -> tuple[str, ...]:
    """A daemon for TLS with no server behind it."""
    return (
        "outgoing_server 127.0.0.1", "outgoing_port 1", "ssl_mode ssl_listen",
        f"ssl_cert_file {certificates}/cert.pem",
        f"ssl_key_file {key or certificates / 'key.pem'}", *more,
    )  # fmt: skip


def daemon_at(folder: Path, *lines: str) -> Daemon:
    """A daemon for IMAPS."""
    return Daemon(folder, *lines, command="perdition.imap4s")


def client_context(certificates: Path) -> ssl.SSLContext:
    """A client's context that trusts the test's authority."""
    return ssl.create_default_context(cafile=certificates / "ca.pem")


def connection(port: int, context: ssl.SSLContext) -> tuple[Lines, ssl.SSLSocket]:
    """A client that has been greeted, and its socket."""
    client = Lines.to(port, context)
    assert client.hear().startswith("* OK ")
    assert isinstance(client.sock, ssl.SSLSocket)
    return client, client.sock


SLOW_NAMES = """
import asyncio
from perdition.session.names import ReverseNames
ask = ReverseNames.ask
async def slow(self, address):
    await asyncio.sleep(0.5)
    await ask(self, address)
ReverseNames.ask = slow
"""


def test_a_client_that_speaks_ahead_of_a_greeting_that_takes_time(
    tmp_path: Path, certificates: Path
) -> None:
    daemon = daemon_at(tmp_path, *options(certificates, "workers 1"))
    daemon.options.remove("no_lookup")
    daemon.write()
    daemon.wrapper = within(SLOW_NAMES)
    with daemon, Lines.to(daemon.port, client_context(certificates)) as client:
        client.say("a LOGOUT")
        assert client.hear().startswith("* OK ")
        assert client.hear().startswith("* BYE ")
        assert client.hear() == "a OK LOGOUT"
    assert not any("internal error" in line for line in daemon.lines)


def test_tls_1_3_by_default_and_nothing_under_1_2(tmp_path: Path, certificates: Path) -> None:
    with daemon_at(tmp_path, *options(certificates, "workers 1")) as daemon:
        client, sock = connection(daemon.port, client_context(certificates))
        with client:
            assert sock.version() == "TLSv1.3"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(certificates / "ca.pem")
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Lines.to(daemon.port, old)
        assert daemon.wait_for_log(
            r"^Fatal error establishing SSL connection to client "
            r"127\.0\.0\.1:\d+->127\.0\.0\.1:\d+: unsupported protocol$"
        )


@pytest.mark.parametrize(("word", "version"), [("tlsv1.2", "TLSv1.2"), ("tlsv1.3", "TLSv1.3")])
def test_the_administrator_says_which_versions(
    tmp_path: Path, certificates: Path, word: str, version: str
) -> None:
    lines = options(
        certificates, "workers 1", f"ssl_listen_min_proto_version {word}",
        f"ssl_listen_max_proto_version {word}",
    )  # fmt: skip
    with daemon_at(tmp_path, *lines) as daemon:
        client, sock = connection(daemon.port, client_context(certificates))
        with client:
            assert sock.version() == version


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_by_whichever_worker_takes_it(
    tmp_path: Path, certificates: Path, newest: ssl.TLSVersion
) -> None:
    context = client_context(certificates)
    context.maximum_version = newest
    with daemon_at(tmp_path, *options(certificates, "workers 3")) as daemon:
        client, sock = connection(daemon.port, context)
        session = sock.session
        client.__exit__()
        for _ in range(12):
            with Lines.to(daemon.port) as plain:
                again = context.wrap_socket(
                    plain.sock, server_hostname="localhost", session=session
                )
                with Lines(again) as client:
                    assert client.hear().startswith("* OK ")
                    assert again.session_reused
        workers = {line.split("]: ")[0] for line in daemon.log.read_text().splitlines()
                   if "Connect: " in line}  # fmt: skip
        assert len({re.sub(r".*\[", "", worker) for worker in workers}) > 1


def test_a_client_that_speaks_in_clear_text(tmp_path: Path, certificates: Path) -> None:
    with daemon_at(tmp_path, *options(certificates, "workers 1")) as daemon:
        with Lines.to(daemon.port) as client:
            client.say("a LOGIN ann canary")
            with suppress(ConnectionResetError):
                client.rest()
        line = daemon.wait_for_log("^Fatal error establishing SSL connection to client ")[0]
        assert "canary" not in line


def test_a_handshake_that_never_ends(tmp_path: Path, certificates: Path) -> None:
    lines = options(certificates, "workers 1", "authenticate_timeout 1")
    with daemon_at(tmp_path, *lines) as daemon, Lines.to(daemon.port) as client:
        client.sock.sendall(b"\x16\x03\x01\x02")
        assert client.hear() == ""
        daemon.wait_for_log("^Fatal Error: Timeout reading authentication information from client")


@pytest.fixture(scope="module")
def encrypted_key(folder: Path, certificates: Path, need: Callable[[str], str]) -> Path:
    """The key, encrypted with PASSPHRASE."""
    path = folder / "encrypted.pem"
    subprocess.run(
        [need("openssl"), "pkey", "-in", certificates / "key.pem", "-aes256", "-out", path,
         "-passout", f"pass:{PASSPHRASE}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def test_a_key_with_a_passphrase_in_a_file(
    tmp_path: Path, certificates: Path, encrypted_key: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSPHRASE + "\n")
    secret.chmod(0o600)
    lines = options(certificates, f"ssl_passphrase_file {secret}", key=encrypted_key)
    with daemon_at(tmp_path / "d", *lines) as daemon:
        client, _ = connection(daemon.port, client_context(certificates))
        with client:
            secret.unlink()
            daemon.reload()  # the passphrase is kept for reloads
        client, _ = connection(daemon.port, client_context(certificates))
        with client:
            assert PASSPHRASE not in daemon.log.read_text()


def refusal(daemon: Daemon, *words: str, descriptors: tuple[int, ...] = ()) -> str:
    """Start a daemon that must not come up; return what it says on stderr."""
    done = subprocess.run(
        [daemon.program, "--config_file", daemon.config, *words], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=10, pass_fds=descriptors,
    )  # fmt: skip
    assert done.returncode == 255
    assert "Traceback" not in done.stderr
    assert PASSPHRASE not in done.stderr
    assert not listens(daemon.port)
    return done.stderr


def test_a_wrong_passphrase_is_refused(
    tmp_path: Path, certificates: Path, encrypted_key: Path
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"wrong\n")
    os.close(writer)
    daemon = daemon_at(tmp_path, *options(certificates, key=encrypted_key))
    said = refusal(daemon, "--ssl_passphrase_fd", str(reader), descriptors=(reader,))
    os.close(reader)
    assert str(encrypted_key) in said


def test_a_passphrase_by_descriptor(
    tmp_path: Path, certificates: Path, encrypted_key: Path
) -> None:
    daemon = daemon_at(tmp_path, *options(certificates, key=encrypted_key))
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE.encode() + b"\n")
    os.close(writer)
    daemon.options.append(f"ssl_passphrase_fd {reader}")
    daemon.write()
    daemon.descriptors = (reader,)
    with daemon:
        client, _ = connection(daemon.port, client_context(certificates))
        client.__exit__()
    os.close(reader)


def test_a_key_of_another_certificate_is_refused(
    tmp_path: Path, certificates: Path, need: Callable[[str], str]
) -> None:
    other = tmp_path / "other.pem"
    subprocess.run(
        [need("openssl"), "genpkey", "-algorithm", "EC", "-pkeyopt",
         "ec_paramgen_curve:P-256", "-out", other], check=True, capture_output=True,
    )  # fmt: skip
    said = refusal(daemon_at(tmp_path / "d", *options(certificates, key=other)))
    assert str(other) in said


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, certificates: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense\n")
    daemon = daemon_at(tmp_path / "d", *options(certificates, f"ssl_dh_params_file {nonsense}"))
    assert str(nonsense) in refusal(daemon)
    daemon = daemon_at(tmp_path / "e", *options(certificates, f"ssl_cert_file {nonsense}"))
    assert str(nonsense) in refusal(daemon)
    daemon = daemon_at(tmp_path / "f", *options(certificates, "ssl_listen_ciphers nonsense"))
    assert "ssl_listen_ciphers" in refusal(daemon)
