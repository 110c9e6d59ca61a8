"""Certificates of servers, of clients, and of ours: what each option lets through, and no more."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.servers.daemon import Daemon
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Made:
    """A certificate and its key, signed by `by` or by itself."""

    def __init__(
        self, common: str = "x", *, by: Made | None = None, names: tuple[str, ...] = (),
        days: tuple[int, int] = (-2, 2), ca: bool = False,
    ) -> None:  # fmt: skip
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.by = by
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by.certificate.subject if by else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + days[0] * DAY)
            .not_valid_after(NOW + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            alternatives = [self._name(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        self.certificate: x509.Certificate = builder.sign(
            by.key if by else self.key, hashes.SHA256()
        )

    @staticmethod
    def _name(name: str) -> x509.GeneralName:
        if name[0].isdigit():
            return x509.IPAddress(ip_address(name))
        return x509.DNSName(name)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def chain(self) -> bytes:
        """Itself and all above it, the root included."""
        return self.pem + (self.by.chain if self.by else b"")

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip

    @property
    def pin(self) -> str:
        spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()


ROOT_CA = Made("Root", ca=True)
MIDDLE = Made("Middle", by=ROOT_CA, ca=True)
STRANGE = Made("Strange", ca=True)
LOCAL = ("localhost",)

# What servers show, by the name of the user who is sent there.
SHOWN: dict[str, Made] = {
    "good": Made(by=ROOT_CA, names=LOCAL),
    "deep": Made(by=MIDDLE, names=LOCAL),
    "common": Made("localhost", by=ROOT_CA),
    "mixed": Made("localhost", by=ROOT_CA, names=("other.example",)),
    "other": Made("other.example", by=ROOT_CA),
    "expired": Made(by=ROOT_CA, names=LOCAL, days=(-5, -1)),
    "early": Made(by=ROOT_CA, names=LOCAL, days=(1, 5)),
    "selfsigned": Made(names=LOCAL),
    "selfexpired": Made(names=LOCAL, days=(-5, -1)),
    "strange": Made(by=STRANGE, names=LOCAL),
    "address": Made(by=ROOT_CA, names=("127.0.0.1",)),
}
ALWAYS = {"good", "deep", "common", "address"}

# Options -> whom they let in.
TABLE: list[tuple[tuple[str, ...], set[str]]] = [
    ((), ALWAYS),
    (("ssl_cert_accept_expired",), ALWAYS | {"expired"}),
    (("ssl_cert_accept_not_yet_valid",), ALWAYS | {"early"}),
    (("ssl_cert_accept_self_signed",), ALWAYS | {"selfsigned"}),
    (
        ("ssl_cert_accept_self_signed", "ssl_cert_accept_expired"),
        ALWAYS | {"selfsigned", "expired", "selfexpired"},
    ),
    (("ssl_ca_accept_self_signed",), ALWAYS | {"strange"}),
    (("ssl_no_cn_verify",), ALWAYS | {"mixed", "other"}),
    (("ssl_no_cn_verify", "ssl_cert_accept_expired"), ALWAYS | {"mixed", "other", "expired"}),
    (("ssl_cert_verify_depth 1",), ALWAYS - {"deep"}),
    (("ssl_cert_verify_depth 2",), ALWAYS),
    (("ssl_no_cert_verify",), set(SHOWN)),
    ((f"ssl_outgoing_fingerprint {SHOWN['selfexpired'].pin.upper()}",), {"selfexpired"}),
]  # fmt: skip


class Server:
    """An IMAP server behind TLS that lets everybody in. A context that ends with it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.clients: list[object] = []  # certificates of those who logged in
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            with suppress(OSError), plain:
                plain.settimeout(10)
                with Lines(self._context.wrap_socket(plain, server_side=True)) as lines:
                    lines.say("* OK [CAPABILITY IMAP4rev1] ready")
                    while command := lines.hear():
                        if " LOGIN " in command:
                            assert isinstance(lines.sock, ssl.SSLSocket)
                            self.clients.append(lines.sock.getpeercert())
                        lines.say(f"{command.split()[0]} OK done")


def server_context(made: Made, folder: Path) -> ssl.SSLContext:
    file = folder / "server.pem"
    file.write_bytes(made.chain + made.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture(scope="module")
def popmap() -> Iterator[Path]:
    """A map from the names of SHOWN to servers that show it; beside it the authority."""
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdition-")))
        where.chmod(0o755)
        (where / "ca.pem").write_bytes(ROOT_CA.pem)
        lines = []
        for name, made in SHOWN.items():
            server = stack.enter_context(Server(server_context(made, where)))
            host = "127.0.0.1" if name == "address" else "localhost"
            lines.append(f"{name}:{host}:{server.port}\n")
        (where / "popmap").write_text("".join(lines))
        yield where / "popmap"


def log_in(port: int, user: str) -> str:
    with Lines.to(port) as lines:
        lines.hear()
        return lines.ask(f"a LOGIN {user} x")[-1]


@pytest.mark.parametrize(
    ("options", "let_in"),
    TABLE,
    ids=[" ".join(each.partition("print ")[0] for each in row[0]) or "none" for row in TABLE],
)
def test_each_option_relaxes_what_it_says_and_no_more(
    options: tuple[str, ...], let_in: set[str], popmap: Path, tmp_path: Path
) -> None:
    with Daemon(
        tmp_path / "p", "map_library popmap", f"map_library_opt {popmap}", "workers 1",
        "ssl_mode ssl_outgoing", f"ssl_ca_file {popmap.parent}/ca.pem", "server_retry 0", "debug",
        *options,
    ) as proxy:  # fmt: skip
        answers = {user: log_in(proxy.port, user) for user in SHOWN}
        said = "\n".join(proxy.lines)
    assert {user for user, answer in answers.items() if answer.startswith("a OK")} == let_in
    refused = {answer for user, answer in answers.items() if user not in let_in}
    assert all(answer.startswith("a NO [UNAVAILABLE]") for answer in refused)
    if refused:
        assert "certificate refused: " in said
    if not options:
        for why in ("has expired", "not yet valid", "self-signed certificate", "mismatch"):
            assert why in said, why


def test_a_name_is_covered_by_whole_labels_only() -> None:
    from perdition.tls_checks import covers  # noqa: PLC0415 - needs what CI has

    made = Made(by=ROOT_CA, names=("*.example.org", "exact.example.net", "192.0.2.1"))
    certificate = made.certificate
    for host in ("a.example.org", "A.Example.ORG", "a.example.org.", "exact.example.net"):
        assert covers(certificate, host), host
    assert covers(certificate, "192.0.2.1")
    for host in (
        "example.org",
        "a.b.example.org",
        "xexample.org",
        "192.0.2.2",
        "x",
        "*.example.org",
    ):
        assert covers(certificate, host) == (host == "*.example.org"), host
    assert not covers(Made("*.org", by=ROOT_CA).certificate, "example.org"), "no wildcard for a TLD"


def test_a_certificate_is_shown_to_servers(tmp_path: Path) -> None:
    context = server_context(SHOWN["good"], tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "ca.pem").write_bytes(ROOT_CA.pem)
    context.load_verify_locations(tmp_path / "ca.pem")
    mine = Made("proxy", by=ROOT_CA)
    (tmp_path / "mine.pem").write_bytes(mine.pem + mine.key_pem)
    options = ("ssl_mode ssl_outgoing", f"ssl_ca_file {tmp_path}/ca.pem")
    with Server(context) as server:
        where = f"outgoing_server localhost:{server.port}"
        with Daemon(tmp_path / "p", where, *options) as proxy:
            assert log_in(proxy.port, "ann").startswith("a NO [UNAVAILABLE]")
        shown = f"ssl_outgoing_cert_file {tmp_path}/mine.pem"
        with Daemon(tmp_path / "q", where, *options, shown) as proxy:
            assert log_in(proxy.port, "ann").startswith("a OK")
    assert len(server.clients) == 1


def greet(port: int, context: ssl.SSLContext, name: str = "localhost") -> tuple[str, bytes]:
    """The greeting, and the certificate that came with it."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as sock,
    ):
        return sock.recv(100).decode(), sock.getpeercert(binary_form=True) or b""


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


def listening(folder: Path, *options: str) -> Daemon:
    """A daemon with TLS for clients that shows the certificate ``good``."""
    (folder / "ca.pem").write_bytes(ROOT_CA.pem)
    write(folder / "cert.pem", SHOWN["good"])
    return Daemon(
        folder / "p", "ssl_mode ssl_listen", f"ssl_cert_file {folder}/cert.pem",
        f"ssl_key_file {folder}/cert.pem", *options, command="perdition.imap4",
    )  # fmt: skip


def write(path: Path, made: Made) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(made.chain + made.key_pem)
    os.replace(new, path)


@pytest.mark.parametrize("required", [False, True])
def test_clients_are_asked_for_a_certificate_where_an_authority_is_named(
    required: bool, tmp_path: Path
) -> None:
    (tmp_path / "clients.pem").write_bytes(ROOT_CA.pem)
    options = [f"ssl_ca_chain_file {tmp_path}/clients.pem"]
    with listening(tmp_path, *options, *["ssl_require_client_cert"] * required) as proxy:
        greeted = {}
        for name, made in {"none": None, "good": Made(by=ROOT_CA), "bad": Made(by=STRANGE)}.items():
            context = trusting(tmp_path)
            if made is not None:
                (tmp_path / "own.pem").write_bytes(made.pem + made.key_pem)
                context.load_cert_chain(tmp_path / "own.pem")
            try:
                greeted[name] = greet(proxy.port, context)[0].startswith("* OK")
            except (ssl.SSLError, ConnectionResetError):
                greeted[name] = False
    assert greeted == {"none": not required, "good": True, "bad": False}
    with listening(tmp_path, *options, "ssl_no_client_cert_verify") as proxy:
        assert greet(proxy.port, context)[0].startswith("* OK"), "nobody is asked"


def test_several_certificates_by_the_name_that_clients_ask_for(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    made = {
        "one.example": Made(by=ROOT_CA, names=("one.example",)),
        "a.two.example": Made(by=ROOT_CA, names=("*.two.example",)),
    }
    for number, each in enumerate(made.values()):
        write(folder / f"{number}.pem", each)
    with listening(tmp_path, f"ssl_cert_folder {folder}") as proxy:
        for name, each in made.items():
            der = greet(proxy.port, trusting(tmp_path), name)[1]
            assert der == each.certificate.public_bytes(serialization.Encoding.DER)
        assert greet(proxy.port, trusting(tmp_path))[0].startswith("* OK")
        with pytest.raises(ssl.SSLCertVerificationError):
            greet(proxy.port, trusting(tmp_path), "unknown.example")


def test_a_renewed_certificate_is_used_and_no_session_is_lost(tmp_path: Path) -> None:
    renewed = Made(by=ROOT_CA, names=LOCAL)
    der = renewed.certificate.public_bytes(serialization.Encoding.DER)
    with listening(tmp_path, "ssl_watch_interval 1", "workers 1") as proxy:
        with Lines.to(proxy.port, trusting(tmp_path)) as lines:
            lines.hear()
            write(tmp_path / "cert.pem", renewed)
            proxy.wait_for_log("^certificates or keys have changed")
            wait_for(lambda: greet(proxy.port, trusting(tmp_path))[1] == der, "still the old one")
            assert lines.ask("a NOOP")[-1].startswith("a OK")
        shutil.copy(tmp_path / "ca.pem", tmp_path / "cert.pem")  # no key in it
        proxy.wait_for_log("the old configuration stays in force")
        assert greet(proxy.port, trusting(tmp_path))[1] == der


def test_what_can_not_be_used_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.pem").write_text("nothing")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "other.pem")
    for options, why in (
        ((f"ssl_cert_folder {tmp_path}/none",), "none"),
        ((f"ssl_cert_folder {empty}",), "x.pem"),
        ((f"ssl_ca_chain_file {tmp_path}/none",), "ssl_ca_chain_file"),
        ((f"ssl_outgoing_cert_file {tmp_path}/other.pem", "ssl_mode ssl_all"), "other.pem"),
        (("ssl_outgoing_fingerprint 12",), "not a SHA-256"),
    ):
        with pytest.raises(AssertionError, match=why), listening(tmp_path, *options):
            pass
