"""The PROXY protocol's header, versions 1 and 2: who the client is, in front of everything else.

Source: "The PROXY protocol" of HAProxy, sections 2.1 and 2.2. Pure, on bytes.
Invariant: `size` never asks for a byte behind the header, so that what follows stays unread.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv6Address, ip_address

from perdition.errors import WireError

Address = tuple[str, int]
Ends = tuple[Address, Address]  # of the client's connection: where from, where to

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = struct.Struct(">12sBBH")
_V1_LIMIT = 107  # bytes, CRLF included
_V2_LIMIT = 2048  # bytes; addresses and what senders add to them
_V1 = re.compile(rb"PROXY TCP[46] (\S{2,45}) (\S{2,45}) (\d{1,5}) (\d{1,5})\r\n")
_TCP4, _TCP6 = 0x11, 0x21


def size(data: bytes) -> int:
    """Return how many bytes the header that begins with `data` has; 0: more has to be seen.

    Raises WireError when it is no header.
    """
    if data[:1] == b"\r" and data.startswith(_SIGNATURE[: len(data)]):
        if len(data) < _HEAD.size:
            return 0
        whole = _HEAD.size + _HEAD.unpack_from(data)[3]
        if whole > _V2_LIMIT:
            raise WireError("PROXY header: too long")
        return whole if len(data) >= whole else 0
    if not data.startswith(b"PROXY "[: len(data)]):
        raise WireError("no PROXY header")
    end = data.find(b"\n", 0, _V1_LIMIT)
    if end < 0 and len(data) >= _V1_LIMIT:
        raise WireError("PROXY header: too long")
    return end + 1


def read(header: bytes) -> Ends | None:
    """Return both ends of the client's connection; None: the sender speaks for itself.

    Raises WireError when the header makes no sense.
    """
    try:
        return _read_v1(header) if header.startswith(b"PROXY") else _read_v2(header)
    except (ValueError, struct.error):
        raise WireError("PROXY header: not understood") from None


def _read_v1(header: bytes) -> Ends | None:
    if header.startswith(b"PROXY UNKNOWN"):
        return None
    found = _V1.fullmatch(header)
    if found is None:
        raise ValueError
    hosts = [_host(text.decode("ascii")) for text in found.groups()[:2]]
    ports = [int(text) for text in found.groups()[2:]]
    if max(ports) > 65535:
        raise ValueError
    return (hosts[0], ports[0]), (hosts[1], ports[1])


def _read_v2(header: bytes) -> Ends | None:
    _, command, family, _ = _HEAD.unpack_from(header)
    if command == 0x20:  # LOCAL: a health check of the sender's own
        return None
    if command != 0x21:
        raise ValueError
    wide = {_TCP4: 4, _TCP6: 16}.get(family)
    if wide is None:
        return None
    at = _HEAD.size
    first, second = header[at : at + wide], header[at + wide : at + 2 * wide]
    ports = struct.unpack_from(">HH", header, at + 2 * wide)
    return (_host(first), ports[0]), (_host(second), ports[1])


def _host(address: str | bytes) -> str:
    """Write an address; an IPv4 one in the clothes of IPv6 as what it is."""
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    host = str(mapped or found)
    if not host.isprintable():  # its scope
        raise ValueError
    return host


def write(version: int, client: Address | None, local: Address | None) -> bytes:
    """Return the header that tells a server who its client is; without addresses: ourselves."""
    if client is None or local is None:
        return b"PROXY UNKNOWN\r\n" if version == 1 else _HEAD.pack(_SIGNATURE, 0x20, 0, 0)
    ends = [ip_address(client[0]), ip_address(local[0])]
    if len({end.version for end in ends}) > 1:  # both have to be of one family
        ends = [e if e.version == 6 else IPv6Address(f"::ffff:{e}") for e in ends]
    six = ends[0].version == 6
    if version == 1:
        words = f"PROXY TCP{6 if six else 4} {ends[0]} {ends[1]} {client[1]} {local[1]}\r\n"
        return words.encode("ascii")
    body = ends[0].packed + ends[1].packed + struct.pack(">HH", client[1], local[1])
    return _HEAD.pack(_SIGNATURE, 0x21, _TCP6 if six else _TCP4, len(body)) + body
