"""Free ports, and the wait for a server to listen."""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

PATIENCE = 15.0  # seconds


def _own_ports() -> Iterator[int]:
    """This process's share of those that the kernel gives to nobody of its own accord."""
    runner = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, count = 10_000 + runner % 5 * 4000, 4000
    start = random.randrange(count)
    return itertools.cycle(first + (start + number) % count for number in range(count))


_PORTS = _own_ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses, and that was not given to anyone lately."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no free port")


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
