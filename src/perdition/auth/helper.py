"""The process that may ask PAM: it keeps the daemon's privileges and knows no network.

A request comes with the descriptor to answer on; several helpers read from one socket, so the
kernel hands each request to one that is free. It ends when nobody is left who could ask.
Invariant: one request, one byte in answer; a request that is not understood gets none.
"""

from __future__ import annotations

import os
import socket

from perdition.auth.pam import Pam

LIMIT = 16_384  # bytes of a request
YES, NO, TROUBLE = b"y", b"n", b"t"


def request(user: bytes, password: bytes, host: str) -> bytes:
    """Write a request; ValueError when a NUL would cut it or it is too long."""
    fields = (user, password, host.encode())
    packed = b"\0".join(fields)
    if packed.count(b"\0") != 2 or len(packed) > LIMIT:
        raise ValueError("not a name or password for PAM")
    return packed


def serve(sock: socket.socket, pam: Pam) -> None:
    """Answer requests from `sock` until its other ends are closed."""
    while True:
        data, fds, flags, _ = socket.recv_fds(sock, LIMIT + 1, 1)
        if not data and not fds:
            return
        try:
            fields = data.split(b"\0")
            if len(fds) == 1 and len(fields) == 3 and not flags & socket.MSG_TRUNC:
                allowed = pam.check(fields[0], fields[1], fields[2].decode("ascii", "replace"))
                os.write(fds[0], TROUBLE if allowed is None else YES if allowed else NO)
        except OSError:
            pass  # who asked has gone meanwhile
        finally:
            for fd in fds:
                os.close(fd)
