"""Databases of Debian's packages, each started once a test run, on a free port, in a folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.conftest import required
from tests.servers.endings import at_end
from tests.servers.ports import end, free_port, listens, wait_for

PASSWORD = "sesame"


def program(name: str, *places: str) -> str:
    """The path of a program; skips at a desk, fails where CI=true."""
    for place in places:
        for folder in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if (folder / name).exists():
                return str(folder / name)
    return required(name)


class Service:
    """A program that is started, stopped and started again on the same port and data."""

    def __init__(self, name: str, user: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"perdition-{name}-"))
        self.user = user if os.getuid() == 0 else ""
        self.port = free_port()
        self.command: Sequence[str | Path] = ()
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        if self.user:
            shutil.chown(self.folder, self.user)
            self.folder.chmod(0o755)
        at_end(self._remove)

    def as_user(self, *words: str | Path) -> list[str | Path]:
        """The command as the user that the program wants to be."""
        who = [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return ["setpriv", *who, *words] if self.user else [*words]

    @property
    def _environment(self) -> dict[str, str]:
        """Nothing is shared: MariaDB, as it starts, removes what others have in their TMPDIR."""
        return {**os.environ, "HOME": str(self.folder), "TMPDIR": str(self.folder)}

    def run(
        self, *words: str | Path, text: str = "", environment: dict[str, str] | None = None
    ) -> None:
        """Run a command to its end."""
        done = subprocess.run(
            self.as_user(*words), capture_output=True, timeout=60, check=False, cwd=self.folder,
            env=self._environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()

    def start(self, ready: Callable[[], bool] | None = None) -> None:
        """Start the program and wait until it listens."""
        if self._process is not None:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.as_user(*self.command), stdout=log, stderr=log, cwd=self.folder,
                env=self._environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        wait_for(
            lambda: listens(self.port) and (ready is None or ready()),
            f"{self.command[0]} is silent: see {self.log}",
        )

    def stop(self) -> None:
        """Kill it and its children, as a crash of the machine would; none may still answer."""
        if self._process is not None:
            processes = self._processes()
            for each in processes:
                with suppress(ProcessLookupError):  # gone with its parent
                    os.kill(each, signal.SIGKILL)
            end(self._process)
            self._process = None
            wait_for(lambda: not any(map(_is_there, processes[1:])), "its children live on")

    def _processes(self) -> tuple[int, ...]:
        assert self._process is not None
        own = self._process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return own, *map(int, children)

    def pause(self, number: signal.Signals = signal.SIGSTOP) -> None:
        """Let it and its children hang, as a machine that is gone; SIGCONT wakes them."""
        processes = self._processes()
        for each in processes:
            os.kill(each, number)
        if number == signal.SIGSTOP:  # which a busy host may carry out a moment later
            wait_for(lambda: all(map(_stands_still, processes)), "it does not stop")

    def resume(self) -> None:
        """Wake it from a pause."""
        self.pause(signal.SIGCONT)

    def _remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    stats = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(text.rpartition(")")[2].split()[0] == "T" for text in stats)
