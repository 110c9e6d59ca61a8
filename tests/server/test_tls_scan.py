"""TLS toward clients as a scanner sees it, by default and opened for old clients."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from tests.conftest import ROOT
from tests.servers.daemon import Daemon
from tests.servers.lines import Lines
from tests.servers.scanner import Report, same_certificate, scan, sieve_opened

SEALED = {
    "RSA": {"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305"},
    "DHE": {"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305"},
    "ECDSA": {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
              "ECDHE-ECDSA-CHACHA20-POLY1305"},
    "TLS 1.3": {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256"},
}  # fmt: skip
CURVES = {"X25519", "X448", "secp256r1", "secp384r1", "secp521r1"}
OPENED = ("ssl_listen_min_proto_version tlsv1", "ssl_listen_ciphers DEFAULT@SECLEVEL=0")

# Name of a way in -> command, ssl_mode, key of the certificate, STARTTLS as the scanner has it.
WAYS = {
    "imap4s": ("perdition.imap4s", "ssl_listen", "RSA", ""),
    "imap4": ("perdition.imap4", "tls_listen", "RSA", "imap"),
    "pop3s": ("perdition.pop3s", "ssl_listen", "ECDSA", ""),
    "pop3": ("perdition.pop3", "tls_listen_force", "RSA", "pop3"),
    "managesieve": ("perdition.managesieve", "tls_listen", "RSA", "sieve"),
    "managesieve in TLS": ("perdition.managesieve", "ssl_listen", "ECDSA", ""),
}


@pytest.fixture(scope="module")
def keys(folder: Path) -> Path:
    """A folder with ca.pem, RSA.pem, RSA.key, ECDSA.pem, ECDSA.key and dhparm.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for kind in trustme.KeyType:
        made = authority.issue_cert("localhost", "127.0.0.1", key_type=kind)
        made.cert_chain_pems[0].write_to_path(folder / f"{kind.name}.pem")
        made.private_key_pem.write_to_path(folder / f"{kind.name}.key")
    shutil.copy(ROOT / "tools/ffdhe2048.pem", folder / "dhparm.pem")
    return folder


def daemon_for(keys: Path, folder: Path, way: str, *more: str) -> Daemon:
    """A daemon for one way in, with no server behind it."""
    command, mode, kind, _ = WAYS[way]
    return Daemon(
        folder, "outgoing_server 127.0.0.1", "outgoing_port 1", "workers 1", f"ssl_mode {mode}",
        f"ssl_cert_file {keys}/{kind}.pem", f"ssl_key_file {keys}/{kind}.key",
        "authenticate_timeout 5", *more, command=command,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[*WAYS, "opened"])
def scanned(
    request: pytest.FixtureRequest, keys: Path, folder: Path
) -> Iterator[tuple[str, Report]]:
    """What the scanner says of each way in by default, and of one opened for old clients."""
    way = request.param
    real = "imap4s" if way == "opened" else way
    more: tuple[str, ...] = OPENED if way == "opened" else ()
    if "imap4" in way:
        more = (f"ssl_dh_params_file {keys}/dhparm.pem",)
    starttls = WAYS[real][3]
    with ExitStack() as stack:
        path = folder / way.replace(" ", "-")
        port = stack.enter_context(daemon_for(keys, path, real, *more)).port
        if starttls == "sieve":
            port, starttls = stack.enter_context(sieve_opened(port)), ""
        report = scan(port, starttls)
    yield way, report


def test_a_scanner_finds_nothing_old_unless_it_is_opened(
    scanned: tuple[str, Report], keys: Path
) -> None:
    way, report = scanned
    if way == "opened":
        found = report.ciphers
        assert set(found) == {"TLS 1.0", "TLS 1.1", "TLS 1.2", "TLS 1.3"}
        assert {"AES128-SHA", "AES256-SHA", "ECDHE-RSA-AES128-SHA"} <= found["TLS 1.0"]
        assert {"AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384"} <= found["TLS 1.2"]
        weak = re.compile("RC4|DES|NULL|EXP|ADH|AECDH")
        assert not [name for accepted in found.values() for name in accepted if weak.search(name)]
        assert report.of("robot")["robot_result"] == "NOT_VULNERABLE_NO_ORACLE"
        return
    kind = WAYS[way][2]
    sealed = SEALED[kind] | (SEALED["DHE"] if "imap4" in way else set())
    assert report.ciphers == {"TLS 1.2": sealed, "TLS 1.3": SEALED["TLS 1.3"]}
    assert {"X25519", "secp256r1", "secp384r1"} <= report.curves <= CURVES
    assert all(same_certificate(shown, keys / f"{kind}.pem") for shown in report.certificates)


def test_a_scanner_finds_no_known_hole(scanned: tuple[str, Report]) -> None:
    _, report = scanned
    renegotiation = report.of("session_renegotiation")
    assert renegotiation["supports_secure_renegotiation"]
    assert not renegotiation["is_vulnerable_to_client_renegotiation_dos"]
    assert renegotiation["client_renegotiations_success_count"] == 0
    assert not report.of("tls_compression")["supports_compression"]
    assert not report.of("heartbleed")["is_vulnerable_to_heartbleed"]
    assert not report.of("openssl_ccs_injection")["is_vulnerable_to_ccs_injection"]
    assert report.of("robot")["robot_result"].startswith("NOT_VULNERABLE")
    assert report.of("tls_fallback_scsv")["supports_fallback_scsv"]
    assert not report.of("tls_1_3_early_data")["supports_early_data"]
    assert report.of("tls_extended_master_secret")["supports_ems_extension"]
    assert report.of("session_resumption")["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"


# -- what the scanner does not ask ------------------------------------------------------------


def client_context(
    keys: Path, ciphers: str = "", version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A client's context; with a version it speaks that one only."""
    context = ssl.create_default_context(cafile=keys / "ca.pem")
    if ciphers:
        context.set_ciphers(ciphers)
    if version is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
    return context


OPEN = {
    "imap4": ("a STARTTLS", "a OK"), "pop3": ("STLS", "+OK"), "managesieve": ("STARTTLS", "OK"),
}  # fmt: skip


def secured(port: int, way: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection by one way in, after its handshake; what is said first in TLS is not read."""
    lines = Lines.to(port)
    try:
        if way in OPEN:
            word, yes = OPEN[way]
            for said in (word, ""):
                while not (line := lines.hear()).startswith(("* OK", yes)):
                    assert line
                if said:
                    lines.say(said)
        return context.wrap_socket(lines.sock, server_hostname="localhost")
    except BaseException:
        lines.__exit__()
        raise


@pytest.mark.parametrize("way", WAYS)
def test_an_old_client_is_let_in_where_options_open(keys: Path, tmp_path: Path, way: str) -> None:
    old = [
        (ssl.TLSVersion.TLSv1, "ALL@SECLEVEL=0", "TLSv1"),
        (ssl.TLSVersion.TLSv1_2, "DHE-RSA-AES256-SHA@SECLEVEL=0", "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA@SECLEVEL=0", "TLSv1.2"),
    ]
    if WAYS[way][2] == "ECDSA":
        old = [*old[:1], (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0", "TLSv1.2")]
    dh = f"ssl_dh_params_file {keys}/dhparm.pem"
    with daemon_for(keys, tmp_path / "opened", way, dh, *OPENED) as opened:
        for version, ciphers, name in old:
            with secured(opened.port, way, client_context(keys, ciphers, version)) as sock:
                assert sock.version() == name
                if version is not ssl.TLSVersion.TLSv1:
                    assert f"{sock.cipher()[0]}@SECLEVEL=0" == ciphers  # type: ignore[index]
                if way != "managesieve":  # where the client has not been greeted, it has asked
                    sock.sendall({"imap4": b"a NOOP\r\n", "pop3": b"CAPA\r\n"}.get(way, b""))
                assert sock.recv(1)
    with daemon_for(keys, tmp_path / "default", way, dh) as default:
        for version, ciphers, _ in old:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                secured(default.port, way, client_context(keys, ciphers, version))
        secured(default.port, way, client_context(keys)).close()


def test_an_old_version_alone_opens_what_its_clients_have(keys: Path, tmp_path: Path) -> None:
    old = client_context(keys, "AES128-SHA@SECLEVEL=0", ssl.TLSVersion.TLSv1)
    more = "ssl_listen_min_proto_version tlsv1"
    with (
        daemon_for(keys, tmp_path, "imap4s", more) as daemon,
        secured(daemon.port, "imap4s", old) as sock,
    ):
        assert sock.recv(4) == b"* OK"


@pytest.mark.parametrize("clients", [False, True])
def test_who_chooses_the_cipher(keys: Path, tmp_path: Path, clients: bool) -> None:
    more = ("ssl_no_cipher_server_preference",) if clients else ()
    ours = "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"
    with daemon_for(keys, tmp_path, "imap4s", *more) as daemon:
        for wanted in (ours, ours[::-1]):
            context = client_context(keys, ":".join(wanted), ssl.TLSVersion.TLSv1_2)
            with secured(daemon.port, "imap4s", context) as sock:
                chosen = sock.cipher()
                assert chosen is not None
                assert chosen[0] == (wanted if clients else ours)[0]


@pytest.mark.parametrize("way", ["imap4s", "imap4", "pop3s", "pop3", "managesieve"])
def test_protocols_of_the_application_layer_do_no_harm(
    keys: Path, tmp_path: Path, way: str
) -> None:
    with daemon_for(keys, tmp_path, way) as daemon:
        for names in (["imap"], ["pop3"], ["managesieve"], ["h2", "http/1.1"]):
            context = client_context(keys)
            context.set_alpn_protocols(names)
            with secured(daemon.port, way, context) as sock:
                assert sock.selected_alpn_protocol() is None
                assert sock.version() == "TLSv1.3"
                if way in ("imap4", "pop3"):
                    sock.sendall(b"a LOGOUT\r\n" if way == "imap4" else b"QUIT\r\n")
                assert sock.recv(1) in b'*+"'


def test_openssl_is_let_neither_down_nor_renegotiate(
    keys: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    with daemon_for(keys, tmp_path, "imap4s") as daemon:

        def client(*words: str, says: str = "") -> str:
            done = subprocess.run(
                [need("openssl"), "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-CAfile",
                 keys / "ca.pem", *words],
                input=says, capture_output=True, text=True, check=False, timeout=15,
            )  # fmt: skip
            return done.stdout + done.stderr

        assert "inappropriate fallback" in client("-tls1_2", "-fallback_scsv")
        said = renegotiated(daemon, keys, need("openssl"))
        assert "Secure Renegotiation IS supported" in said
        assert "no renegotiation" in said
        said = client("-ign_eof", says="a LOGOUT\n")
        assert re.search(r"Max Early Data: 0$", said, re.MULTILINE)
        assert "Compression: NONE" in said
        assert "Verify return code: 0 (ok)" in said


def renegotiated(daemon: Daemon, keys: Path, program: str) -> str:
    """What s_client says that renegotiates once it has been greeted; else the two may cross."""
    with subprocess.Popen(
        [program, "s_client", "-tls1_2", "-connect", f"127.0.0.1:{daemon.port}", "-CAfile",
         keys / "ca.pem"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = b""
        while b"\n* OK " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        return (said + process.communicate(b"R\n", timeout=15)[0]).decode()


# -- toward servers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "ciphers", "reached"),
    [
        ("", "ECDHE-RSA-AES128-SHA", True),
        ("", "AES256-GCM-SHA384", False),
        ("ssl_outgoing_ciphers DEFAULT", "AES256-GCM-SHA384", True),
    ],
)
def test_a_server_without_forward_secrecy(  # noqa: PLR0917
    keys: Path, tmp_path: Path, need: Callable[[str], str], option: str, ciphers: str, reached: bool
) -> None:
    with daemon_for(keys, tmp_path / "server", "imap4s", f"ssl_listen_ciphers {ciphers}",
                    "ssl_listen_max_proto_version tlsv1.2") as server:  # fmt: skip
        front = Daemon(
            tmp_path / "front", "outgoing_server 127.0.0.1", f"outgoing_port {server.port}",
            "workers 1", "failure_delay 0", "ssl_mode ssl_outgoing", f"ssl_ca_file {keys}/ca.pem",
            *([option] if option else []),
        )  # fmt: skip
        with front, Lines.to(front.port) as lines:
            lines.hear()
            assert lines.ask("a LOGIN ann secret")[-1].startswith("a NO ")
            front.wait_for_log('status="failed: ')
        heard = [line for line in server.lines if "Fatal error establishing SSL" in line]
        assert bool(heard) is not reached
