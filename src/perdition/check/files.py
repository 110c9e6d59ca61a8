"""Rules about who may read and write the files that options name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from perdition.check.findings import NOTE, WARNING, Finding
from perdition.config import Config
from perdition.config.options import OPTIONS
from perdition.errors import StartError
from perdition.protocols import TlsUse
from perdition.tls import certificates_in

_MOST = 1 << 20  # bytes that are read of a file


def readable_by_others(config: Config) -> Iterator[Finding]:
    for name, path in _secret_files(config):
        if mode := _mode(path) & stat.S_IROTH:
            mode = stat.S_IMODE(_mode(path))
            yield Finding(
                WARNING,
                name,
                f"{name}: every user of this host can read the secret in {path} (mode {mode:04o})",
            )
    for name in sorted(config.given):
        if OPTIONS[name].secret and getattr(config, name) and _mode(config.config_path) & 4:
            yield Finding(
                NOTE,
                name,
                f"{name} may hold a password: every user of this host can read "
                f"{config.config_path}",
            )


def writable_by_others(config: Config) -> Iterator[Finding]:
    named = [
        (name, getattr(config, name))
        for name, option in OPTIONS.items()
        if option.path and name not in ("config_file", "log_socket")
    ]
    for name, path in (("", config.config_path), *named):
        if _mode(path) & stat.S_IWOTH:
            text = f"every user of this host can change {path}"
            yield Finding(WARNING, name, f"{name}: {text}" if name else text)


def _secret_files(config: Config) -> Iterator[tuple[str, str]]:
    """The options that name files with secrets in them, as far as they are in use."""
    listen, outgoing = config.ssl_mode
    if listen is not TlsUse.NONE:
        yield "ssl_key_file", config.ssl_key_file
        if config.ssl_cert_file != config.ssl_key_file and _holds_key(config.ssl_cert_file):
            yield "ssl_cert_file", config.ssl_cert_file
        for path in certificates_of(config):
            yield "ssl_cert_folder", path
        yield "ssl_passphrase_file", config.ssl_passphrase_file
    if outgoing is not TlsUse.NONE and config.ssl_outgoing_cert_file:
        if config.ssl_outgoing_key_file:
            yield "ssl_outgoing_key_file", config.ssl_outgoing_key_file
        else:
            yield "ssl_outgoing_cert_file", config.ssl_outgoing_cert_file


def certificates_of(config: Config) -> list[str]:
    """The files of ``ssl_cert_folder``; a folder that can't be read is told by a trial."""
    try:
        return certificates_in(config.ssl_cert_folder)
    except StartError:
        return []


def content(path: str) -> bytes:
    """What is in a file; empty if it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST)
    except (OSError, ValueError):
        return b""


def _holds_key(path: str) -> bool:
    return b"PRIVATE KEY-----" in content(path)


def _mode(path: str) -> int:
    """The mode of a file; 0 if there is none."""
    try:
        return os.stat(path).st_mode if path else 0
    except (OSError, ValueError):
        return 0
