"""2.2's daemon map: datagrams to a program behind a UNIX socket.

    SOCKET[:TIMEOUT[:RETRIES]]

A request holds the key, the delimiter and both ends of the client's connection; a response user,
server and port. All integers are big-endian; the addresses in a request of type 1 are those of 2.2
on the little-endian machines it ran on. Other than 2.2 a question that stays unanswered ends after
its retries. Source: section 7 of the description of 2.2.
Invariant: an answer is from the socket that was asked, to this question, or there is none.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import tempfile
from ipaddress import IPv4Address, ip_address

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Address, Popmap, Query, route_from
from perdition.route import Route

DEFAULT = "/var/run/perdition.db"
ANSWER_LIMIT = 65_536  # bytes

_HEADER = struct.Struct(">IHHHH4s4sHH")
_MAGIC, _VERSION = 0x07070707, 1
_REQUEST, _RESPONSE, _STRING_REQUEST = 1, 2, 3
_NOWHERE: Address = ("0.0.0.0", 0)


class Map(Popmap):
    """``map_library_opt``: as above; seconds for an answer, and how often to ask again."""

    waits = True
    uses_addresses = True

    def __init__(self, option: str) -> None:
        path, *numbers = (option or DEFAULT).split(":")
        if len(numbers) > 2 or not all(re.fullmatch("[0-9]{1,4}", each) for each in numbers):
            raise MapError("the daemon map wants SOCKET[:TIMEOUT[:RETRIES]]")
        self._path = path or DEFAULT
        self._timeout = float(numbers[0]) if numbers else 1.0
        self._retries = int(numbers[1]) if len(numbers) > 1 else 5
        self._folder = ""
        self._sock: socket.socket | None = None

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT or len(query.delimiter) > KEY_LIMIT:
            return None
        try:
            answer = self._ask(request(query))
        except OSError as error:
            self.close()
            raise MapError(f"{self._path}: {error.strerror or 'no answer'}") from None
        user, server, port = _strings(answer, self._path)
        if not (user or server or port):
            raise MapError(f"{self._path}: the daemon has no answer")
        host, service = (each.decode("utf-8", "surrogateescape") for each in (server, port))
        return route_from(user, host, service, query.delimiter)

    def _ask(self, asked: bytes) -> bytes:
        for _ in range(self._retries + 1):
            sock = self._open()
            try:
                # Nobody else can send to a connected socket, whatever path he calls himself by.
                sock.connect(self._path)
                sock.send(asked)
                return sock.recv(ANSWER_LIMIT)
            except TimeoutError:
                continue
        raise MapError(f"{self._path}: no answer to {self._retries + 1} questions")

    def _open(self) -> socket.socket:
        """A socket with a name, newly made: a late answer to an old question can't reach it."""
        self.close()
        self._folder = tempfile.mkdtemp(prefix="perdition-map-")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(max(0.001, self._timeout))  # a full queue makes a question wait, too
        name = os.path.join(self._folder, f"map.{os.getpid()}")
        self._sock.bind(name)
        # The daemon may run as another user: it has to reach the socket, the folder's name is
        # known to it alone.
        os.chmod(name, 0o666)
        os.chmod(self._folder, 0o711)
        return self._sock

    def close(self) -> None:
        """Close the socket and remove its name."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def request(query: Query) -> bytes:
    """Write a question as 2.2 does."""
    (saddr, sport), (daddr, dport) = query.client or _NOWHERE, query.local or _NOWHERE
    strings = [query.key, query.delimiter]
    ends = [ip_address(saddr), ip_address(daddr)]
    if all(isinstance(end, IPv4Address) for end in ends):
        # 2.2 swaps what is in network order already.
        ports = [struct.unpack("<H", struct.pack(">H", port))[0] for port in (sport, dport)]
        kind, numbers = _REQUEST, (ends[0].packed[::-1], ends[1].packed[::-1], *ports)
    else:
        strings += [each.encode() for each in (saddr, str(sport), daddr, str(dport))]
        kind, numbers = _STRING_REQUEST, (bytes(4), bytes(4), 0, 0)
    body = b"".join(struct.pack(">H", len(each)) + each for each in strings)
    size = _HEADER.size + len(body)
    return _HEADER.pack(_MAGIC, _VERSION, kind, size, 0, *numbers) + body


def _strings(data: bytes, path: str) -> list[bytes]:
    """The three strings of a response; MapError when it is none."""
    if len(data) >= _HEADER.size:
        magic, version, kind, size, *_ = _HEADER.unpack_from(data)
        if (magic, version, kind, size) == (_MAGIC, _VERSION, _RESPONSE, len(data)):
            found: list[bytes] = []
            at = _HEADER.size
            while at + 2 <= size and len(found) < 3:
                length = int.from_bytes(data[at : at + 2], "big")
                found.append(data[at + 2 : at + 2 + length])
                at += 2 + length
            if len(found) == 3 and at == size:
                return found
    raise MapError(f"{path}: not a response")
