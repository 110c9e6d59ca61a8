"""THE protocol table: a protocol's name, its commands' names, ports, and grammars.

A protocol's name appears here and in `wire/` only. To add one: a grammar in `wire/`, a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class TlsUse(Enum):
    """How one leg uses TLS; the values are the words of the ``ssl_mode`` option without the leg."""

    NONE = "none"
    SSL = "ssl"  # from the first byte
    TLS = "tls"  # STARTTLS or STLS, where the other side wants it
    TLS_FORCE = "tls_force"  # STARTTLS or STLS before any credentials


class SslMode(NamedTuple):
    """The value of ``ssl_mode``: what the listening and the outgoing leg do."""

    listen: TlsUse = TlsUse.NONE
    outgoing: TlsUse = TlsUse.NONE


@dataclass(frozen=True, slots=True)
class ProtocolRow:
    """One protocol as the administrator names it."""

    name: str  # as in logs and ``--protocol``
    stem: str  # as in ``perdition.STEM.conf``
    service: str  # services(5) name of the default port
    port: int
    ssl_mode: SslMode  # when the option is not given
    grammar: str  # module in `wire/` that holds Front and Back
    capability: str  # the option that lists what is announced before login
    shortcuts: str = ""  # module in `wire/` with what it tells at a glance
    idle_word: str = ""  # the capability by which clients stay idle for 29 minutes


_NONE = SslMode()
_ALL = SslMode(TlsUse.SSL, TlsUse.SSL)
_IMAP = ("imap4", "imap_capability", "imap4_quick", "IDLE")

PROTOCOLS: dict[str, ProtocolRow] = {
    row.name: row
    for row in (
        ProtocolRow("IMAP4", "imap4", "imap", 143, _NONE, *_IMAP),
        ProtocolRow("IMAP4S", "imap4s", "imaps", 993, _ALL, *_IMAP),
        ProtocolRow("POP3", "pop3", "pop3", 110, _NONE, "pop3", "pop_capability"),
        ProtocolRow("POP3S", "pop3s", "pop3s", 995, _ALL, "pop3", "pop_capability"),
        ProtocolRow(
            "MANAGESIEVE", "managesieve", "sieve", 4190, _NONE, "managesieve",
            "managesieve_capability",
        ),
    )
}  # fmt: skip

# Basename of argv[0] -> protocol; any other name is POP3, as in 2.2.
COMMANDS: dict[str, str] = {
    "perdition.pop3": "POP3",
    "perdition.pop3s": "POP3S",
    "perdition.imap4": "IMAP4",
    "perdition.imap4s": "IMAP4S",
    "perdition.imaps": "IMAP4S",
    "perdition.managesieve": "MANAGESIEVE",
}
DEFAULT_PROTOCOL = "POP3"


def protocol_of_command(basename: str) -> ProtocolRow:
    """The protocol that a command's name asks for."""
    return PROTOCOLS[COMMANDS.get(basename, DEFAULT_PROTOCOL)]
