"""Free ports, and the wait for a server to listen."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable

PATIENCE = 15.0  # seconds


_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses, and that was not given to anyone before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def wait_for(what: Callable[[], object], why: str, seconds: float = PATIENCE) -> None:
    """Return once `what` is true; AssertionError with `why` when it does not become so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.01)


def listens(port: int) -> bool:
    """Whether something listens there, asked of the kernel so that no connection is made."""
    wanted = f":{port:04X} "
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            for line in file:
                fields = line.split()
                if fields[1].endswith(wanted.strip()) and fields[3] == "0A":
                    return True
    return False


def end(process: subprocess.Popen[bytes], seconds: float = 10.0) -> int:
    """Terminate a process, by force if it must be; return its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
