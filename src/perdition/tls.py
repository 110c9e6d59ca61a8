"""TLS contexts from the configuration, and what a server's certificate must satisfy.

The contexts are made by the master before it forks, so that every worker of a generation shares
the keys of its session tickets. Errors name the file at fault.
"""

from __future__ import annotations

import os
import ssl
import sys

from perdition.config import Config
from perdition.errors import StartError

_VERSIONS = {
    "sslv3": ssl.TLSVersion.SSLv3,
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}


class Passphrase:
    """The key's passphrase, read when first asked for; a reload uses what was read then."""

    def __init__(self, options: Config) -> None:
        self._file = options.ssl_passphrase_file
        self._fd = options.ssl_passphrase_fd
        self._key_file = options.ssl_key_file
        self._known: bytes | None = None

    def __call__(self) -> bytes:
        """Return the first line of file or descriptor, or what is typed at the terminal."""
        if self._known is None:
            self._known = self._read()
        return self._known

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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _versions(
        context, "ssl_listen", options.ssl_listen_min_proto_version,
        options.ssl_listen_max_proto_version,
    )  # fmt: skip
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if options.ssl_no_cipher_server_preference:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _ciphers(context, "ssl_listen_ciphers", options.ssl_listen_ciphers)
    context.num_tickets = 1  # one write less a handshake; clients resume with one as well
    _load_certificate(context, options.ssl_cert_file, options.ssl_key_file, passphrase)
    parameters = dh_parameters_file(options)
    if parameters:
        _load_dh(context, parameters)
    return context


def dh_parameters_file(options: Config) -> str:
    """Return the file with the Diffie-Hellman parameters in use; empty when there are none."""
    if options.ssl_dh_params_file:
        return options.ssl_dh_params_file
    return options.ssl_cert_file if _holds_dh(options.ssl_cert_file) else ""


def outgoing_context(options: Config) -> ssl.SSLContext:
    """Return the context toward servers: chain and name are checked unless options say not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _versions(
        context, "ssl_outgoing", options.ssl_outgoing_min_proto_version,
        options.ssl_outgoing_max_proto_version,
    )  # fmt: skip
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    _ciphers(context, "ssl_outgoing_ciphers", options.ssl_outgoing_ciphers)
    context.check_hostname = not (options.ssl_no_cn_verify or options.ssl_no_cert_verify)
    if options.ssl_no_cert_verify:
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if options.ssl_ca_file:
        try:
            context.load_verify_locations(cafile=options.ssl_ca_file)
        except OSError as error:
            raise _unusable(
                "certificate authority", "ssl_ca_file", options.ssl_ca_file, error
            ) from None
    if options.ssl_ca_path and os.path.isdir(options.ssl_ca_path):
        context.load_verify_locations(capath=options.ssl_ca_path)
    return context


def _versions(context: ssl.SSLContext, leg: str, least: str, most: str) -> None:
    if least in ("sslv3", "tlsv1", "tlsv1.1"):
        # OpenSSL's own security level would refuse what the administrator asked for.
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    try:
        if least:
            context.minimum_version = _VERSIONS[least]
        if most:
            context.maximum_version = _VERSIONS[most]
    except (ValueError, ssl.SSLError):
        raise StartError(
            f"{leg}: OpenSSL does not know the versions {least!r} to {most!r}"
        ) from None


def _ciphers(context: ssl.SSLContext, option: str, ciphers: str) -> None:
    if not ciphers:
        return
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise StartError(f"{option}: no usable cipher in {ciphers!r}") from None


def _load_certificate(
    context: ssl.SSLContext, cert_file: str, key_file: str, passphrase: Passphrase
) -> None:
    for what, option, path in (
        ("certificate chain", "ssl_cert_file", cert_file),
        ("private key", "ssl_key_file", key_file),
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
