"""Versions, ciphers and preferences of TLS: the same options and clients, Perdition 2.2 and ours.

Each client gets the same from both, or from both nothing; what differs is listed with its reason,
which docs/migrate.md tells as well.
"""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from tests.compat.player import perdition_2
from tests.conftest import ROOT
from tests.servers.daemon import Daemon
from tests.servers.ports import free_port

OPTIONS = {
    "defaults": (),
    "no newer than 1.2": ("ssl_listen_max_proto_version tlsv1.2",),
    "1.2 only": ("ssl_listen_min_proto_version tlsv1.2", "ssl_listen_max_proto_version tlsv1.2"),
    "1.1 and later": (
        "ssl_listen_min_proto_version tlsv1.1", "ssl_listen_ciphers DEFAULT@SECLEVEL=0",
    ),
    "all": ("ssl_listen_min_proto_version tlsv1", "ssl_listen_ciphers DEFAULT@SECLEVEL=0"),
    "OpenSSL's list": ("ssl_listen_ciphers DEFAULT",),
    "static RSA": ("ssl_listen_ciphers AES128-SHA256",),
    "two": ("ssl_listen_ciphers ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",),
    "the client's choice": (
        "ssl_listen_ciphers ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
        "ssl_no_cipher_server_preference",
    ),
    "DHE": ("ssl_dh_params_file {dhparm}", "ssl_listen_ciphers DHE-RSA-AES128-GCM-SHA256"),
}  # fmt: skip
CLIENTS = {  # name: least version, most, ciphers up to 1.2
    "1.0": ("TLSv1", "TLSv1", "DEFAULT@SECLEVEL=0"),
    "1.1": ("TLSv1_1", "TLSv1_1", "DEFAULT@SECLEVEL=0"),
    "1.2": ("TLSv1_2", "TLSv1_2", "DEFAULT"),
    "1.2 AES128": (
        "TLSv1_2", "TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
    ),
    "1.2 CBC": ("TLSv1_2", "TLSv1_2", "ECDHE-RSA-AES128-SHA256"),
    "1.2 static RSA": ("TLSv1_2", "TLSv1_2", "AES128-SHA256:AES256-SHA256"),
    "1.2 DHE": ("TLSv1_2", "TLSv1_2", "DHE-RSA-AES128-GCM-SHA256"),
    "1.3": ("TLSv1_3", "TLSv1_3", "DEFAULT"),
}  # fmt: skip
# By options and client: what 2.2 gives; ours refuses it. (docs/migrate.md, "TLS")
SEALED = {
    (options, client): cipher
    for options in ("defaults", "no newer than 1.2", "1.2 only")
    for client, cipher in (
        ("1.2 CBC", "TLSv1.2 ECDHE-RSA-AES128-SHA256"),
        ("1.2 static RSA", "TLSv1.2 AES256-SHA256"),
    )
}


@pytest.fixture(scope="module")
def rsa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of the kind that old clients know."""
    folder = tmp_path_factory.mktemp("rsa")
    certificate = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.RSA)
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    return folder


def offered(port: int, client: str) -> str:
    """What a client gets."""
    least, most, ciphers = CLIENTS[client]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion[least]
        context.maximum_version = ssl.TLSVersion[most]
    context.set_ciphers(ciphers)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as bare,
            context.wrap_socket(bare) as sock,
        ):
            sock.recv(1)
            cipher = sock.cipher()
            assert cipher is not None
            return f"{sock.version()} {cipher[0]}"
    except (ssl.SSLError, ConnectionError):
        return "refused"


@pytest.fixture(scope="module", params=OPTIONS)
def both(
    request: pytest.FixtureRequest, rsa: Path, need: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, int, int]]:  # fmt: skip
    """A set of options by name, and the ports of 2.2 and ours under it."""
    dhparm = ROOT / "tools/ffdhe2048.pem"
    options = [line.format(dhparm=dhparm) for line in OPTIONS[request.param]]
    options += ["outgoing_server 127.0.0.1", "ssl_mode ssl_listen",
                f"ssl_cert_file {rsa}/cert.pem", f"ssl_key_file {rsa}/key.pem"]  # fmt: skip
    folder, old = tmp_path_factory.mktemp("both"), free_port()
    with (
        perdition_2(need("perdition.imap4s"), old, folder / "2.2", options),
        Daemon(folder / "ours", "workers 1", *options, command="perdition.imap4s") as new,
    ):
        yield request.param, old, new.port


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_what_2_2_gives(both: tuple[str, int, int], client: str) -> None:
    options, old, new = both
    expected = offered(old, client)
    if (options, client) in SEALED:
        assert expected == SEALED[options, client]
        expected = "refused"
    assert offered(new, client) == expected
