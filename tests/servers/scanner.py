"""sslyze, a scanner of other people: what TLS of ours it is let into.

It has an environment of its own (tools/setup.sh makes it), since it holds cryptography back.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, lacking
from tests.servers.ports import free_port

_PYTHON = ROOT / ".venv/sslyze/bin/python"
_CHECKS = [
    "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--certinfo",
    "--compression", "--early_data", "--ems", "--elliptic_curves", "--fallback", "--heartbleed",
    "--openssl_ccs", "--reneg", "--resum", "--robot", "--mozilla_config=disable",
]  # fmt: skip
_VERSIONS = ("SSL 2.0", "SSL 3.0", "TLS 1.0", "TLS 1.1", "TLS 1.2", "TLS 1.3")


class Report:
    """What the scanner found; a check that it could not carry out is an error."""

    def __init__(self, results: dict[str, Any]) -> None:
        self._results = results

    def of(self, check: str) -> dict[str, Any]:
        """The result of one of its checks."""
        done = self._results[check]
        assert done["status"] == "COMPLETED", (check, done["error_reason"], done["error_trace"])
        result = done["result"]
        assert isinstance(result, dict)
        return result

    @property
    def ciphers(self) -> dict[str, set[str]]:
        """Version -> the ciphers that were accepted, by OpenSSL's names."""
        found = {}
        for version in _VERSIONS:
            check = version.lower().replace(" ", "_").replace(".", "_") + "_cipher_suites"
            accepted = self.of(check)["accepted_cipher_suites"]
            if accepted:
                found[version] = {each["cipher_suite"]["openssl_name"] for each in accepted}
        return found

    @property
    def curves(self) -> set[str]:
        """The curves that keys may be made on."""
        return {each["name"] for each in self.of("elliptic_curves")["supported_curves"]}

    @property
    def certificates(self) -> list[str]:
        """The first certificate of each chain shown, PEM."""
        deployed = self.of("certificate_info")["certificate_deployments"]
        return [each["received_certificate_chain"][0]["as_pem"] for each in deployed]


def scan(port: int, starttls: str = "") -> Report:
    """Scan a port of 127.0.0.1; `starttls` is imap, pop3 or empty."""
    if not _PYTHON.exists():
        lacking("sslyze is not installed in .venv/sslyze: see tools/setup.sh")
    done = subprocess.run(
        [_PYTHON, "-W", "ignore", "-m", "sslyze", "--json_out=-", *_CHECKS,
         *(("--starttls", starttls) if starttls else ()), "--sni", "localhost",
         f"127.0.0.1:{port}"],
        capture_output=True, check=False, timeout=18,
    )  # fmt: skip
    try:
        (result,) = json.loads(done.stdout)["server_scan_results"]
    except (ValueError, KeyError):
        raise AssertionError((done.stdout + done.stderr).decode()) from None
    assert result["connectivity_status"] == "COMPLETED", result
    return Report(result["scan_result"])


class _Opened(socketserver.BaseRequestHandler):
    """A connection: STARTTLS is said, then bytes are passed on."""

    def handle(self) -> None:
        assert isinstance(self.server, _Opener)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.server.behind), 10) as server,
        ):
            reader = server.makefile("rb", buffering=0)
            for said in (b"STARTTLS\r\n", b""):
                while not (line := reader.readline()).startswith(b"OK"):
                    assert line
                server.sendall(said)
            self._pass_on(server)

    def _pass_on(self, server: socket.socket) -> None:
        other = {server: self.request, self.request: server}
        with selectors.DefaultSelector() as selector:
            for end in other:
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    other[key.fileobj].sendall(data)


class _Opener(socketserver.ThreadingTCPServer):
    """What listens for the scanner, before the port `behind`."""

    daemon_threads = True
    block_on_close = False
    behind = 0


@contextlib.contextmanager
def sieve_opened(port: int) -> Iterator[int]:
    """Give a port with TLS from the first byte before ManageSieve, whose STARTTLS sslyze lacks."""
    with _Opener(("127.0.0.1", free_port()), _Opened) as opener:
        opener.behind = port
        thread = threading.Thread(target=opener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(opener.server_address[1])
        finally:
            opener.shutdown()
            thread.join()


def same_certificate(pem: str, path: Path) -> bool:
    """Whether a certificate is the one in a file."""
    return "".join(pem.split()) == "".join(path.read_text().split())
