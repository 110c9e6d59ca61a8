"""TCP connections, and the packets that one has received by the kernel's count (linux/tcp.h)."""

from __future__ import annotations

import socket
import struct

_SEGS_IN, _DATA_SEGS_IN = 140, 152  # where they stand in `struct tcp_info`


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    return near, far


def hasten(sock: socket.SocketType) -> None:
    """Have each packet sent at once; under BBR, too, one may wait for another."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as clients' sockets have it
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def received(sock: socket.SocketType) -> tuple[int, int]:
    """All packets that have come, and those of them with data."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    (packets,) = struct.unpack_from("I", info, _SEGS_IN)
    (with_data,) = struct.unpack_from("I", info, _DATA_SEGS_IN)
    return packets, with_data
