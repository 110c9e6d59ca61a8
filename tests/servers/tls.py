"""Both sides of TLS over one connection: contexts that trust each other, and our handshake."""

from __future__ import annotations

import select
import ssl

import trustme

from perdition.tls_socket import TlsSocket


def contexts_for(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a context for a server of that name, and a client's that trusts it."""
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(theirs)
    return ours, theirs


def shake(sock: TlsSocket) -> None:
    """Make the handshake of a non-blocking socket."""
    while True:
        try:
            sock.tls.do_handshake()
        except ssl.SSLWantReadError:
            assert select.select([sock], [], [], 10)[0]
        else:
            return
