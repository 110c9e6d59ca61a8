"""The options of TLS. See `options.py`."""

# ruff: noqa: RUF009 - opt and flag return fields
from __future__ import annotations

from dataclasses import dataclass

from perdition.config.fields import flag, opt
from perdition.config.options_limits import LimitOptions
from perdition.config.readers import (
    TLS_VERSIONS,
    count,
    fingerprints,
    number,
    show,
    text,
    tls_legs,
    word,
)
from perdition.protocols import PROTOCOLS, SslMode

_VERSIONS = "sslv3, tlsv1, tlsv1.1, tlsv1.2 or tlsv1.3"
_MODES = ", ".join(f"{row.name}: {show(row.ssl_mode)}" for row in PROTOCOLS.values())


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class TlsOptions(LimitOptions):
    """TLS options"""

    ssl_mode: SslMode = opt(
        SslMode(),
        tls_legs,
        "Which legs use TLS, and how. ssl_listen, ssl_outgoing, ssl_all: from the first byte. "
        "tls_listen, tls_outgoing, tls_all: by STARTTLS or STLS, where the other side wants it. "
        "tls_listen_force, tls_outgoing_force, tls_all_force: by STARTTLS or STLS, and no login "
        "without. none: neither leg. A repeated option adds to what was said.",
        meta="MODE[,MODE...]",
        initial=_MODES,
        example="ssl_listen",
        adds=True,
    )
    ssl_ca_accept_self_signed: bool = flag(
        "Accept a self-signed certificate in the chain of a server's certificate."
    )
    ssl_ca_chain_file: str = opt(
        "",
        text,
        "Ask clients for a certificate, which must come from an authority in this file or in "
        "ssl_ca_file. A client may have none, unless ssl_require_client_cert.",
        meta="FILE",
        path=True,
    )
    ssl_ca_file: str = opt(
        "",
        text,
        "File of the authorities that certificates must come from, in addition to ssl_ca_path.",
        meta="FILE",
        path=True,
        example="/etc/perdition/perdition.ca.pem",
    )
    ssl_ca_path: str = opt(
        "/etc/perdition/perdition.ca/",
        text,
        "Directory of such authorities, with names as c_rehash(1) makes them. The system's own "
        "authorities count too.",
        meta="DIRECTORY",
        path=True,
    )
    ssl_cert_accept_expired: bool = flag("Accept a server's certificate past its end.")
    ssl_cert_accept_not_yet_valid: bool = flag(
        "Accept a server's certificate before its beginning."
    )
    ssl_cert_accept_self_signed: bool = flag("Accept a server's certificate that is self-signed.")
    ssl_cert_file: str = opt(
        "/etc/perdition/perdition.crt.pem",
        text,
        "Our certificate and its chain, for clients; PEM. The key may be in the same file.",
        meta="FILE",
        path=True,
    )
    ssl_cert_folder: str = opt(
        "",
        text,
        "Folder of further certificates, each with its chain and key in a file *.pem, for clients "
        "that ask for one of the names in it (SNI). Others get ssl_cert_file.",
        meta="FOLDER",
        path=True,
        example="/etc/perdition/certificates",
        since="3.0",
    )
    ssl_cert_verify_depth: int = opt(
        9,
        number(0, 100),
        "Most authorities between a server's certificate and a trusted one.",
        meta="DEPTH",
    )
    ssl_dh_params_file: str = opt(
        "",
        text,
        "Diffie-Hellman parameters; empty: those in ssl_cert_file, if there are any.",
        meta="FILE",
        path=True,
        example="/etc/perdition/dhparm.pem",
    )
    ssl_key_file: str = opt(
        "/etc/perdition/perdition.key.pem",
        text,
        "The key of our certificate; PEM.",
        meta="FILE",
        path=True,
    )
    ssl_listen_ciphers: str = opt(
        "",
        text,
        "Ciphers of TLS 1.2 and before for clients, as in ciphers(1); DEFAULT is OpenSSL's list. "
        "Empty: those with forward secrecy and authenticated encryption (AEAD).",
        meta="LIST",
        example="DEFAULT",
    )
    ssl_listen_compression: bool = flag(
        "TLS compression for clients.", obsolete="TLS compression is no longer possible"
    )
    ssl_listen_max_proto_version: str = opt(
        "",
        word("", *TLS_VERSIONS),
        f"Newest version of TLS for clients: {_VERSIONS}; empty: the newest there is.",
        meta="VERSION",
        example="tlsv1.3",
    )
    ssl_listen_min_proto_version: str = opt(
        "tlsv1.2",
        word(*TLS_VERSIONS),
        f"Oldest version of TLS for clients: {_VERSIONS}. One before tlsv1.2 sets OpenSSL's "
        "security level to 0, and the ciphers to DEFAULT unless ssl_listen_ciphers says which.",
        meta="VERSION",
    )
    ssl_no_cert_verify: bool = flag(
        "Do not ask whether a server's certificate comes from a known authority."
    )
    ssl_no_cipher_server_preference: bool = flag("Let clients choose the cipher.")
    ssl_no_client_cert_verify: bool = flag("Do not ask clients for a certificate.")
    ssl_no_cn_verify: bool = flag(
        "Do not ask whether a server's certificate bears the name by which we call the server."
    )
    ssl_outgoing_cert_file: str = opt(
        "",
        text,
        "Certificate, with its chain, that we show to servers; PEM.",
        meta="FILE",
        path=True,
        since="3.0",
    )
    ssl_outgoing_ciphers: str = opt(
        "",
        text,
        "Ciphers of TLS 1.2 and before for servers, as in ciphers(1); DEFAULT is OpenSSL's list. "
        "Empty: those with forward secrecy.",
        meta="LIST",
        example="DEFAULT",
    )
    ssl_outgoing_compression: bool = flag(
        "TLS compression for servers.", obsolete="TLS compression is no longer possible"
    )
    ssl_outgoing_fingerprint: tuple[str, ...] = opt(
        (),
        fingerprints,
        "SHA-256 of the public keys that servers may have, in hexadecimal, colons allowed. Then "
        "neither authority nor name of the certificate is asked for.",
        meta="SHA256[,...]",
        initial="none",
        example="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        since="3.0",
    )
    ssl_outgoing_key_file: str = opt(
        "",
        text,
        "The key of ssl_outgoing_cert_file, if it is not in that file; PEM.",
        meta="FILE",
        path=True,
        since="3.0",
    )
    ssl_outgoing_max_proto_version: str = opt(
        "",
        word("", *TLS_VERSIONS),
        f"Newest version of TLS for servers: {_VERSIONS}; empty: the newest there is.",
        meta="VERSION",
        example="tlsv1.3",
    )
    ssl_outgoing_min_proto_version: str = opt(
        "tlsv1.2",
        word(*TLS_VERSIONS),
        f"Oldest version of TLS for servers: {_VERSIONS}. One before tlsv1.2 sets OpenSSL's "
        "security level to 0, and the ciphers to DEFAULT unless ssl_outgoing_ciphers says which.",
        meta="VERSION",
    )
    ssl_passphrase_fd: int | None = opt(
        0,
        count,
        "File descriptor to read the passphrase of an encrypted key from.",
        meta="FD",
    )
    ssl_passphrase_file: str = opt(
        "",
        text,
        "File whose first line is the passphrase of an encrypted key.",
        meta="FILE",
        path=True,
        example="/etc/perdition/passphrase",
    )
    ssl_require_client_cert: bool = flag(
        "Send clients away that have no certificate; see ssl_ca_chain_file.", since="3.0"
    )
    ssl_watch_interval: int = opt(
        60,
        count,
        "Look so often whether the files of certificates and keys have changed, and use the new "
        "ones. 0: only on SIGHUP.",
        meta="SECONDS",
        since="3.0",
    )
