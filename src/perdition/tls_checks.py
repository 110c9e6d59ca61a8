"""What a server's certificate must satisfy where Python's own TLS can't say it: pins, relaxations.

OpenSSL as Python has it either verifies a chain or it doesn't. Where an option asks for less than
all of it (an expired or self-signed certificate, a depth), or for a certain key, the handshake goes
through without verification and the certificate is judged here, before anything is sent.
Needs pyOpenSSL. Invariant: what no option relaxes is verified as strictly as without this room.
"""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError
from OpenSSL.crypto import Error as CryptoError

from perdition.config import Config
from perdition.errors import StartError

# X509_verify_cert(3)
_SELF_SIGNED_LEAF, _SELF_SIGNED_IN_CHAIN = 18, 19
_NO_CHECK_TIME = 0x200000


class ServerCheck:
    """The options about a server's certificate, ready to be applied; see `refusal`."""

    def __init__(self, options: Config) -> None:
        """Load the authorities once; StartError names the file that can't be used."""
        self._pins = frozenset(options.ssl_outgoing_fingerprint)
        self._expired = options.ssl_cert_accept_expired
        self._early = options.ssl_cert_accept_not_yet_valid
        self._self_signed = options.ssl_cert_accept_self_signed
        self._self_signed_ca = options.ssl_ca_accept_self_signed
        self._depth = options.ssl_cert_verify_depth
        self._name = not options.ssl_no_cn_verify
        self._store = self._new_store()
        system = ssl.get_default_verify_paths()
        for file, folder in (
            (system.cafile, system.capath),
            (options.ssl_ca_file or None, None),
            (None, options.ssl_ca_path or None),
        ):
            if file or folder:
                try:
                    self._store.load_locations(file, folder)
                except CryptoError as error:
                    raise StartError(
                        f'Error loading certificate authority file "{file or folder}": {error}'
                    ) from None

    def _new_store(self) -> X509Store:
        store = X509Store()
        if self._expired or self._early:
            store.set_flags(_NO_CHECK_TIME)  # judged in `_out_of_time`, each end by its option
        return store

    def refusal(self, chain: list[bytes], host: str) -> str:
        """Return why the server `host` with `chain` (DER, its own first) is refused, or nothing."""
        if not chain:
            return "no certificate"
        try:
            certificates = [x509.load_der_x509_certificate(each) for each in chain]
            return self._refusal(certificates, host)
        except (ValueError, TypeError) as error:  # what a peer makes need not be well-formed
            return f"it can't be read: {error}"

    def _refusal(self, certificates: list[x509.Certificate], host: str) -> str:
        if self._pins:
            spki = (
                certificates[0]
                .public_key()
                .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
            found = hashlib.sha256(spki).hexdigest()
            return "" if found in self._pins else f"key not in ssl_outgoing_fingerprint: {found}"
        verified = self._verified([X509.from_cryptography(each) for each in certificates])
        if isinstance(verified, str):
            return verified
        if len(verified) - 1 > self._depth:
            return f"{len(verified) - 1} authorities, ssl_cert_verify_depth is {self._depth}"
        for each in verified:
            if why := self._out_of_time(each):
                return why
        if self._name and not covers(certificates[0], host):
            return f"it does not bear the name {host}"
        return ""

    def _verified(self, chain: list[X509]) -> list[x509.Certificate] | str:
        """The chain up to a trusted certificate, or why there is none."""
        store, why = self._store, ""
        for _ in range(2):
            try:
                found = X509StoreContext(store, chain[0], chain[1:]).get_verified_chain()
                return [each.to_cryptography() for each in found]
            except X509StoreContextError as error:
                code, why = error.errors[0], str(error.errors[2])
                if not (
                    (code == _SELF_SIGNED_LEAF and self._self_signed)
                    or (code == _SELF_SIGNED_IN_CHAIN and self._self_signed_ca)
                ):
                    return why
                # Trusted for this once, so that all other rules are still applied.
                store = self._new_store()
                store.add_cert(error.certificate)
        return why

    def _out_of_time(self, certificate: x509.Certificate) -> str:
        if not (self._expired or self._early):
            return ""  # OpenSSL has looked
        now = datetime.now(UTC)
        begin, end = validity(certificate)
        if not self._expired and end < now:
            return "certificate has expired"
        if not self._early and begin > now:
            return "certificate is not yet valid"
        return ""


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """The first and the last moment of a certificate."""
    if hasattr(certificate, "not_valid_after_utc"):  # since cryptography 42
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    begin, end = certificate.not_valid_before, certificate.not_valid_after
    return begin.replace(tzinfo=UTC), end.replace(tzinfo=UTC)


def names_of(certificate: x509.Certificate) -> list[str]:
    """The names that a certificate is for: alternative names, or else the common name."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(each.value) for each in common]
    addresses = found.get_values_for_type(x509.IPAddress)
    return [*found.get_values_for_type(x509.DNSName), *map(str, addresses)]


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for `host` (RFC 6125, 6.4; a wildcard is a whole first label)."""
    try:
        host = str(ip_address(host))
    except ValueError:
        host = host.rstrip(".").lower()
        parent = host.partition(".")[2]
        wild = f"*.{parent}" if "." in parent else host
        return bool({host, wild} & {name.lower() for name in names_of(certificate)})
    return host in names_of(certificate)
