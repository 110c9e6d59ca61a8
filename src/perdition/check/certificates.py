"""Rules about certificates: their time, their names, what they come with.

Needs cryptography, which pyOpenSSL brings; without it nothing is looked at, and a note says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perdition.check.files import certificates_of, content
from perdition.check.findings import ERROR, NOTE, WARNING, Finding
from perdition.config import Config
from perdition.protocols import TlsUse
from perdition.route import is_address

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SOON = 14  # days before its end that a certificate should have been renewed

_LAST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_PEM = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_Named = tuple[str, str, list["Certificate"]]  # option, file, what is in it


def judge(config: Config, now: float) -> list[Finding]:
    """Look at the certificates that are shown to clients and to servers."""
    try:
        named = list(_files(config))
        found = [f for each in named for f in _one_file(*each, now)]
        if config.ssl_mode.listen is not TlsUse.NONE:
            found += _names(config, [chain[0] for _, _, chain in named if chain])
    except ImportError as error:
        text = (
            "certificates are not looked at: that needs pyOpenSSL (perdition[tls]; Debian: "
            f"python3-openssl): {error}"
        )
        return [Finding(NOTE, "", text)]
    return found


def is_about(finding: Finding) -> bool:
    """Whether a finding is about a certificate that is shown."""
    return finding.option in ("ssl_cert_file", "ssl_cert_folder", "ssl_outgoing_cert_file")


def _files(config: Config) -> Iterator[_Named]:
    listen, outgoing = config.ssl_mode
    named: list[tuple[str, str]] = []
    if listen is not TlsUse.NONE:
        named.append(("ssl_cert_file", config.ssl_cert_file))
        named += [("ssl_cert_folder", path) for path in certificates_of(config)]
    if outgoing is not TlsUse.NONE and config.ssl_outgoing_cert_file:
        named.append(("ssl_outgoing_cert_file", config.ssl_outgoing_cert_file))
    for option, path in named:
        yield option, path, _certificates(path)


def _certificates(path: str) -> list[Certificate]:
    """The certificates in a file; what can't be read is told by a trial of the contexts."""
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415 - optional

    try:
        return [load_pem_x509_certificate(pem) for pem in _PEM.findall(content(path))]
    except ValueError:
        return []


def _one_file(option: str, path: str, chain: list[Certificate], now: float) -> Iterator[Finding]:
    from perdition.tls_checks import validity  # noqa: PLC0415 - optional

    at = datetime.fromtimestamp(min(now, _LAST), UTC)
    for number, each in enumerate(chain):
        begin, end = validity(each)
        which = "the certificate" if number == 0 else f"authority {number} of the chain"
        where = f"{option}: {which} in {path}"
        if begin > at:
            yield Finding(ERROR, option, f"{where} is not valid before {_shown(begin)}")
        if end < at:
            yield Finding(ERROR, option, f"{where} expired on {_shown(end)}")
        elif (left := (end - at).days) < SOON:
            text = f"{where} expires on {_shown(end)}, in {left} day{'' if left == 1 else 's'}"
            yield Finding(WARNING, option, text)
    if len(chain) == 1 and option != "ssl_outgoing_cert_file":
        if chain[0].issuer == chain[0].subject:
            yield Finding(NOTE, option, f"{option}: {path} is self-signed: clients must be told")
        else:
            text = f"{option}: {path} has no certificate of an authority: who does not know"
            yield Finding(NOTE, option, f'{text} "{chain[0].issuer.rfc4514_string()}" refuses it')


def _shown(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def _names(config: Config, certificates: list[Certificate]) -> Iterator[Finding]:
    """Whether some certificate bears each name that clients are known to use."""
    from perdition.tls_checks import covers, names_of  # noqa: PLC0415 - optional

    if not certificates:
        return
    born = ", ".join(dict.fromkeys(name for each in certificates for name in names_of(each)))
    known = [s.host for s in config.bind_address if not is_address(s.host)]
    for host in known:
        if host != "localhost" and not any(covers(each, host) for each in certificates):
            text = f"no certificate is for {host}, which bind_address names, but for {born}"
            yield Finding(WARNING, "bind_address", text)
    own = os.uname().nodename
    if not known and "." in own and not any(covers(each, own) for each in certificates):
        text = f"ssl_cert_file: the certificate is for {born}, this host calls itself {own}"
        yield Finding(NOTE, "ssl_cert_file", text)
