"""The control socket of a daemon as a test speaks to it: plain bytes in, objects out."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


def ask(path: Path, **request: object) -> list[dict[str, Any]]:
    """Send a request; return all objects of the answer, the end last."""
    return ask_raw(path, json.dumps(request).encode() + b"\n")


def ask_raw(path: Path, line: bytes) -> list[dict[str, Any]]:
    """Send bytes; return the objects of the answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(line)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return [json.loads(each) for each in answer.splitlines()]


def rows(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all workers, each with its worker's number."""
    return [
        {**row, "worker": part["worker"]}
        for part in answer[:-1]
        for row in part["rows"]
    ]  # fmt: skip
