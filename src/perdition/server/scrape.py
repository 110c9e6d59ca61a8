"""What a scraper of metrics asks, and what it hears: as much of HTTP/1.1 as that takes.

Source: RFC 9112. One request a connection; everything behind the first line is let pass.
"""

from __future__ import annotations

import re
from http import HTTPStatus

END = b"\r\n\r\n"  # of a request
_REQUEST = re.compile(rb"(GET|HEAD) (\S+) HTTP/1\.[01]")


def status_of(request: bytes) -> HTTPStatus:
    """What to answer to a request: OK for the metrics."""
    found = _REQUEST.fullmatch(request.partition(b"\r\n")[0])
    if found is None:
        return HTTPStatus.BAD_REQUEST
    is_metrics = found[2].partition(b"?")[0] == b"/metrics"
    return HTTPStatus.OK if is_metrics else HTTPStatus.NOT_FOUND


def response(request: bytes, status: HTTPStatus, kind: str, text: str) -> bytes:
    """The answer; without its body where only the head was asked for."""
    body = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode("ascii")
    return head if request.startswith(b"HEAD ") else head + body
