"""A daemon of ours as an administrator starts it: a command, a configuration file, a log file."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.servers.ports import PATIENCE, end, free_port, wait_for

BIN = Path(sys.executable).parent


def within(changes: str) -> tuple[str, ...]:
    """A wrapper: the daemon runs in a Python that has carried out `changes` to it first."""
    run = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"
    )
    return (sys.executable, "-c", f"{changes}\n{run}")


class Daemon:
    """`command` in the foreground with `options` in its file. A context that ends with it.

    Options are lines of the file; a context entered has a daemon that listens on `port`.
    """

    def __init__(
        self, folder: Path, *options: str, command: str = "perdition.imap4", files: int = 0
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.files = files  # most descriptors of each process; 0: as it comes
        self.wrapper: tuple[str, ...] = ()  # a command in front of the daemon's
        self.descriptors: tuple[int, ...] = ()  # that the daemon inherits
        self.folder = folder
        self.program = BIN / command
        self.port = free_port()
        self.config = folder / "perdition.conf"
        self.log = folder / "log"
        self.pid_file = folder / "pid"
        self.control = folder / "control.sock"
        self.options = [
            "bind_address 127.0.0.1",
            f"listen_port {self.port}",
            f"log_facility {self.log}",
            f"pid_file {self.pid_file}",
            f"control_socket {self.control}",
            "no_daemon",
            "no_lookup",
            *options,
        ]
        self.write()

    def write(self, *more: str) -> None:
        """Write the configuration file, with further lines."""
        self.config.write_text("".join(f"{line}\n" for line in (*self.options, *more)))

    def __enter__(self) -> Self:
        limit = ["prlimit", f"--nofile={self.files}:{self.files}"] if self.files else []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.settimeout(0.1)
        self._notify.bind("")  # the kernel finds a name
        name = "@" + self._notify.getsockname()[1:].decode("ascii")
        self.process = subprocess.Popen(
            [*self.wrapper, *limit, self.program, "--config_file", self.config],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "NOTIFY_SOCKET": name}, pass_fds=self.descriptors,
        )  # fmt: skip
        end_of_patience = time.monotonic() + PATIENCE
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() > end_of_patience:
                self.process.kill()
                said, _ = self.process.communicate()
                self._notify.close()
                raise AssertionError(said.decode())
        return self

    def _is_up(self) -> bool:
        try:
            return self._notify.recv(4096).startswith(b"READY=1")
        except TimeoutError:
            return False

    def __exit__(self, *_: object) -> None:
        end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._notify.close()

    @property
    def lines(self) -> list[str]:
        """What the log says, without time, ident and pid; a line counts once it is whole."""
        whole = self.log.read_text().rpartition("\n")[0]
        return [line.split("]: ", 1)[1] for line in whole.splitlines()]

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """Return the lines that match a regular expression once there are `count` of them."""
        compiled = re.compile(pattern)

        def matching() -> list[str]:
            return [line for line in self.lines if compiled.search(line)]

        wait_for(lambda: len(matching()) >= count, f"no {count} lines match {pattern!r}")
        return matching()

    @property
    def workers(self) -> list[int]:
        """Process numbers of the workers, of all generations."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def reload(self, *more: str) -> None:
        """Add lines to the configuration and have it read anew."""
        before = len([line for line in self.lines if line.startswith("Reloaded")])
        self.write(*more)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for_log("^Reloaded", before + 1)
