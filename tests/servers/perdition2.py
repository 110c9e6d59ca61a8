"""Perdition 2.2 as Debian ships it, to be compared with."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.ports import end, free_port, listens, wait_for


@contextmanager
def perdition_2(
    program: str, port: int, certificates: Path, *options: str, log: Path | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[int]:  # fmt: skip
    """Perdition 2.2 before a server, with STARTTLS for clients; gives its port.

    `log` is where its lines go, `wrapper` a command in front of its own.
    """
    own = free_port()
    who = pwd.getpwuid(os.getuid()).pw_name
    command = [
        *wrapper,
        program, "--no_daemon", "-f", "/dev/null", "-l", str(own), "-s", "127.0.0.1", "-p",
        str(port), "-F", "+", "-n", "--map_library", "", "-b", "127.0.0.1", "-u", who, "-g", "",
        "--pid_file", "", "--ssl_mode", "tls_listen",
        "--ssl_cert_file", str(certificates / "cert.pem"),
        "--ssl_key_file", str(certificates / "key.pem"), "--ssl_no_client_cert_verify", *options,
    ]  # fmt: skip
    with log.open("w+b") if log else tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stderr=said)
        try:
            wait_for(lambda: listens(own) or process.poll() is not None, "2.2 does not listen")
            if process.poll() is not None:
                said.seek(0)
                raise AssertionError(said.read().decode())
            yield own
        finally:
            end(process)
