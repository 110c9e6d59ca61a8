"""What an administrator may see of a session: who, from where, to where, since when.

It reads what sessions hold anyway and costs nothing until somebody asks. No password is in reach.
"""

from __future__ import annotations

import os
import socket

from perdition.session.login import Session
from perdition.tls_socket import TlsSocket

_NAME = 256  # characters of a user's name that are shown


def session_id(session: Session) -> str:
    """A name for the session while it lasts: its worker, descriptor and the client's port."""
    client, _ = session.trail.ends()
    return f"{os.getpid()}-{session.sock.fileno()}-{client[1] if client else 0}"


def matches(session: Session, word: str) -> bool:
    """Whether `word` is the session's user, its client's address or its id; empty: yes."""
    trail = session.trail
    client, _ = trail.ends()
    return (
        not word
        or word in (trail.authentication_id, trail.authorisation_id)
        or (client is not None and word == client[0])
        or word == session_id(session)
    )


def sight(session: Session) -> dict[str, object]:
    """One row of ``who``; `seconds` is its age, `idle` seconds without traffic."""
    trail, relay, now = session.trail, session.relay, session.service.sweep.now
    client, reached = trail.ends()
    row: dict[str, object] = {
        "id": session_id(session),
        "user": trail.authentication_id[:_NAME],
        "authorisation_id": trail.authorisation_id[:_NAME],
        "client": client[0] if client else "",
        "client_port": client[1] if client else 0,
        "local": reached[0] if reached else "",
        "local_port": reached[1] if reached else 0,
        "server": str(session.at or ""),
        "tls": _tls_of(session.sock),
        "server_tls": None,
        "seconds": now - session.since,
        "idle": None,
        "received": 0,
        "sent": 0,
        "logged_in": relay is not None,
    }
    if relay is not None:
        row["server_tls"] = _tls_of(relay.down.source)
        row["idle"] = now - relay.active
        row["received"], row["sent"] = relay.up.count, relay.down.count
    return row


def _tls_of(sock: socket.SocketType) -> str | None:
    return sock.tls.version() if isinstance(sock, TlsSocket) else None
