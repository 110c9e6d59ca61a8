"""TLS contexts from the configuration, and what a server's certificate must satisfy.

The contexts are made by the master before it forks, so that every worker of a generation shares
the keys of its session tickets. Errors name the file at fault.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdition.config import Config
from perdition.errors import StartError
from perdition.protocols import TlsUse
from perdition.tls_socket import TlsSocket

if TYPE_CHECKING:
    from perdition.tls_checks import ServerCheck

_VERSIONS = {
    "sslv3": ssl.TLSVersion.SSLv3,
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}

# What TLS 1.2 may use unless an option says otherwise; TLS 1.3 has no others. Every key dies with
# its connection. Toward clients only ciphers that authenticate what they encrypt; servers may be
# older than that.
_SEALED = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!DSS"
_DEFAULT_CIPHERS = {
    "listen": _SEALED,
    "outgoing": f"{_SEALED}:ECDHE+AES:DHE+AES:!AESCCM",
}

# The options that name a certificate and its key, for messages.
_LISTEN = ("ssl_cert_file", "ssl_key_file")
_OUTGOING = ("ssl_outgoing_cert_file", "ssl_outgoing_key_file")


class Passphrase:
    """The key's passphrase, read when first asked for; a reload uses what was read then."""

    def __init__(self, options: Config, known: bytes | None = None) -> None:
        self._file = options.ssl_passphrase_file
        self._fd = options.ssl_passphrase_fd
        self._key_file = options.ssl_key_file
        self.known = known  # once it has been read

    def __call__(self) -> bytes:
        """Return the first line of file or descriptor, or what is typed at the terminal."""
        if self.known is None:
            self.known = self._read()
        return self.known

    def _read(self) -> bytes:
        if self._file:
            with open(self._file, "rb") as file:
                return file.readline(4096).rstrip(b"\r\n")
        fd = self._fd or 0
        if os.isatty(fd):
            import getpass  # noqa: PLC0415 - only a person at a terminal needs it

            return os.fsencode(getpass.getpass(f"Passphrase for {self._key_file}: ", sys.stderr))
        line = b""
        while not line.endswith(b"\n") and len(line) < 4096:
            char = os.read(fd, 1)
            if not char:
                break
            line += char
        return line.rstrip(b"\r\n")


def listen_context(options: Config, passphrase: Passphrase) -> ssl.SSLContext:
    """Return the context toward clients; StartError names the file that can't be used."""
    context = _listen_context(options, options.ssl_cert_file, options.ssl_key_file, passphrase)
    _add_by_name(context, options, passphrase)
    return context


def _listen_context(
    options: Config, cert_file: str, key_file: str, passphrase: Passphrase
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _versions_and_ciphers(context, options, "listen")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if options.ssl_no_cipher_server_preference:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # one write less a handshake; clients resume with one as well
    _load_certificate(context, cert_file, key_file, passphrase)
    parameters = dh_parameters_file(options)
    if parameters:
        _load_dh(context, parameters)
    _ask_clients(context, options)
    return context


def _ask_clients(context: ssl.SSLContext, options: Config) -> None:
    """Ask clients for a certificate where an authority for them is named."""
    if not options.ssl_ca_chain_file:
        return
    if options.ssl_no_client_cert_verify or options.ssl_no_cert_verify:
        return
    for option in ("ssl_ca_chain_file", "ssl_ca_file"):
        _load_authorities(context, option, getattr(options, option))
    required = options.ssl_require_client_cert
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


def _load_authorities(context: ssl.SSLContext, option: str, path: str) -> None:
    if path:
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise _unusable("certificate authority", option, path, error) from None


def dh_parameters_file(options: Config) -> str:
    """Return the file with the Diffie-Hellman parameters in use; empty when there are none."""
    if options.ssl_dh_params_file:
        return options.ssl_dh_params_file
    return options.ssl_cert_file if _holds_dh(options.ssl_cert_file) else ""


def outgoing_context(options: Config) -> ssl.SSLContext:
    """Return the context toward servers: chain and name are checked unless options say not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _versions_and_ciphers(context, options, "outgoing")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.check_hostname = not (options.ssl_no_cn_verify or options.ssl_no_cert_verify)
    if options.ssl_outgoing_cert_file:
        key = options.ssl_outgoing_key_file or options.ssl_outgoing_cert_file
        _load_certificate(context, options.ssl_outgoing_cert_file, key, lambda: b"", _OUTGOING)
    if options.ssl_no_cert_verify:
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _load_authorities(context, "ssl_ca_file", options.ssl_ca_file)
    if options.ssl_ca_path and os.path.isdir(options.ssl_ca_path):
        context.load_verify_locations(capath=options.ssl_ca_path)
    if needs_check(options):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # judged after the handshake, by `server_check`
    return context


def needs_check(options: Config) -> bool:
    """Whether what is asked of a server's certificate is more than Python's TLS can say."""
    return bool(options.ssl_outgoing_fingerprint) or (
        not options.ssl_no_cert_verify
        and (
            options.ssl_cert_accept_expired
            or options.ssl_cert_accept_not_yet_valid
            or options.ssl_cert_accept_self_signed
            or options.ssl_ca_accept_self_signed
            or "ssl_cert_verify_depth" in options.given
        )
    )


def server_check(options: Config) -> ServerCheck | None:
    """Return what judges a server's certificate after the handshake; None: the handshake does."""
    if not needs_check(options):
        return None
    try:
        from perdition.tls_checks import ServerCheck  # noqa: PLC0415 - needs pyOpenSSL
    except ImportError as error:
        raise StartError(
            "ssl_outgoing_fingerprint, ssl_cert_accept_*, ssl_ca_accept_self_signed and "
            "ssl_cert_verify_depth need pyOpenSSL (perdition[tls]; Debian: python3-openssl): "
            f"{error}"
        ) from None
    return ServerCheck(options)


def chain_of(sock: ssl.SSLSocket | TlsSocket) -> list[bytes]:
    """The certificates that the peer sent, its own first; DER."""
    tls = sock.tls if isinstance(sock, TlsSocket) else sock._sslobj  # type: ignore[attr-defined]
    chain = tls.get_unverified_chain() or ()  # SSLSocket has it as a method since Python 3.13
    return [each.public_bytes(2) for each in chain]  # 2: DER


def watched_files(options: Config) -> list[str]:
    """The files whose change calls for new contexts."""
    listen, outgoing = options.ssl_mode
    files: list[str] = []
    if listen is not TlsUse.NONE:
        files += [options.ssl_cert_file, options.ssl_key_file, options.ssl_ca_chain_file]
        files += [dh_parameters_file(options), *certificates_in(options.ssl_cert_folder)]
        files.append(options.ssl_cert_folder)
    if outgoing is not TlsUse.NONE:
        files += [options.ssl_outgoing_cert_file, options.ssl_outgoing_key_file]
    files.append(options.ssl_ca_file)
    return [file for file in dict.fromkeys(files) if file]


def certificates_in(folder: str) -> list[str]:
    """The files of ``ssl_cert_folder``, none if it is not set; StartError if it can't be read."""
    if not folder:
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise _unusable("certificate", "ssl_cert_folder", folder, error) from None
    return [os.path.join(folder, name) for name in names if name.endswith(".pem")]


def _add_by_name(context: ssl.SSLContext, options: Config, passphrase: Passphrase) -> None:
    """Let clients that ask for a name in `ssl_cert_folder` have the certificate that bears it."""
    files = certificates_in(options.ssl_cert_folder)
    if not files:
        return
    try:
        from cryptography import x509  # noqa: PLC0415 - only for this option

        from perdition.tls_checks import names_of  # noqa: PLC0415
    except ImportError as error:
        raise StartError(
            f"ssl_cert_folder needs pyOpenSSL (perdition[tls]; Debian: python3-openssl): {error}"
        ) from None
    by_name: dict[str, ssl.SSLContext] = {}
    for path in files:
        named = _listen_context(options, path, path, passphrase)
        with open(path, "rb") as file:
            text = file.read(1 << 20)
        begin = text.index(b"-----BEGIN CERTIFICATE")
        for name in names_of(x509.load_pem_x509_certificate(text[begin:])):
            by_name.setdefault(name.lower(), named)

    def choose(sock: Any, name: str | None, _: ssl.SSLContext) -> None:
        asked = (name or "").lower()
        chosen = by_name.get(asked) or by_name.get(f"*.{asked.partition('.')[2]}")
        if chosen is not None:
            sock.context = chosen

    context.sni_callback = choose


def _versions_and_ciphers(context: ssl.SSLContext, options: Config, leg: str) -> None:
    least = getattr(options, f"ssl_{leg}_min_proto_version")
    most = getattr(options, f"ssl_{leg}_max_proto_version")
    ciphers = getattr(options, f"ssl_{leg}_ciphers")
    context.set_ciphers(_DEFAULT_CIPHERS[leg])
    if least in ("sslv3", "tlsv1", "tlsv1.1"):
        # OpenSSL's own security level would refuse what the administrator asked for, and who
        # speaks no other version has no ciphers of today.
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    try:
        context.minimum_version = _VERSIONS[least]
        if most:
            context.maximum_version = _VERSIONS[most]
    except (ValueError, ssl.SSLError):
        raise StartError(
            f"ssl_{leg}: OpenSSL does not know the versions {least!r} to {most!r}"
        ) from None
    try:
        if ciphers:
            context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise StartError(f"ssl_{leg}_ciphers: no usable cipher in {ciphers!r}") from None


def _load_certificate(
    context: ssl.SSLContext,
    cert_file: str,
    key_file: str,
    passphrase: Callable[[], bytes],
    names: tuple[str, str] = _LISTEN,
) -> None:
    for what, option, path in (
        ("certificate chain", names[0], cert_file),
        ("private key", names[1], key_file),
    ):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise _unusable(what, option, path, error) from None
    try:
        context.load_cert_chain(cert_file, key_file, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartError(
                f'Error loading private key file "{key_file}": '
                f'it does not belong to the certificate in "{cert_file}"'
            ) from None
        if _is_certificate(cert_file):
            why = error.reason or "wrong or missing passphrase, or not a key in PEM"
            raise StartError(f'Error loading private key file "{key_file}": {why}') from None
        why = error.reason or "not a certificate in PEM"
        raise StartError(f'Error loading certificate chain file "{cert_file}": {why}') from None
    except (OSError, ValueError) as error:
        raise StartError(f'Error loading private key file "{key_file}": {error}') from None


def _is_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):
        return False
    return True


def _load_dh(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_dh_params(path)
    except (OSError, ValueError) as error:
        raise _unusable("Diffie-Hellman parameters", "ssl_dh_params_file", path, error) from None


def _holds_dh(path: str) -> bool:
    with open(path, "rb") as file:
        return b"-----BEGIN DH PARAMETERS-----" in file.read(1 << 20)


def _unusable(what: str, option: str, path: str, error: Exception) -> StartError:
    why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return StartError(f'Error loading {what} file "{path}" ({option}): {why}')
