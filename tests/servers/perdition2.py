"""Perdition 2.2 as Debian ships it, to be compared with."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.ports import end, free_port, listens, wait_for


@contextmanager
def perdition_2(program: str, port: int, certificates: Path, *options: str) -> Iterator[int]:
    """Perdition 2.2 before a server, with STARTTLS for clients; gives its port."""
    own = free_port()
    who = pwd.getpwuid(os.getuid()).pw_name
    command = [
        program, "--no_daemon", "-f", "/dev/null", "-l", str(own), "-s", "127.0.0.1", "-p",
        str(port), "-F", "+", "-n", "--map_library", "", "-b", "127.0.0.1", "-u", who, "-g", "",
        "--pid_file", "", "--ssl_mode", "tls_listen",
        "--ssl_cert_file", str(certificates / "cert.pem"),
        "--ssl_key_file", str(certificates / "key.pem"), "--ssl_no_client_cert_verify", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: listens(own) or process.poll() is not None, "2.2 does not listen")
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield own
    finally:
        end(process)
        assert process.stderr is not None
        process.stderr.close()
