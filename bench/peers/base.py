"""What a peer is: a proxy that can be put in front of a back end, plain or with TLS.

A peer says which files it needs, writes its configuration into a folder and names the command that
stays in the foreground.  Starting it, waiting for its greeting and ending every process of it is
the same for all and done here.
"""

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import proc
from bench.programs import BenchError, pinned

CAPABILITY = "IMAP4rev1 LITERAL+ ID ENABLE IDLE"


@dataclass(frozen=True)
class Setting:
    """Where a peer works: its folder, its port, the back end's port, and the key pair."""

    folder: Path
    port: int
    backend_port: int
    tls: bool
    certificate: Path
    key: Path
    workers: int = 1  # for ours
    popmap: Path | None = None  # for ours


class Peer(ABC):
    """One proxy; `shrink` scales the counts down for one that is very much slower."""

    name: ClassVar[str]
    shrink: ClassVar[float] = 1.0
    at_once: ClassVar[int] = 1000
    """How many clients may come at the same moment."""
    has_tls: ClassVar[bool] = True
    logs_in: ClassVar[bool] = True
    """Whether it logs in as anybody would have it; one that does not is no rival."""
    relays: ClassVar[frozenset[str]] = frozenset({"plain", "tls"})
    """In which flavours it can be asked to carry more than a line."""
    only: ClassVar[str] = ""
    """What the jobs that it takes part in are called, or how their names begin."""
    needs: ClassVar[dict[str, str]]
    """Path of a file or name of a command: what provides it."""

    @abstractmethod
    def command(self, setting: Setting) -> list[str]:
        """Writes the configuration and returns the command that runs in the foreground."""

    def missing(self) -> str:
        """Says what must be installed, or nothing."""
        absent = [
            f"{what} ({source})"
            for what, source in self.needs.items()
            if not shutil.which(what) and not Path(what).exists()
        ]
        return f"missing: {', '.join(absent)}" if absent else ""


def free_port() -> int:
    """Finds a port on loopback that nobody uses now, and that the kernel gives to no connection."""
    for port in random.sample(range(30_000, 32_768), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise BenchError("no free port")


class Running:
    """A started peer: its process tree and how long it took to greet the first client."""

    def __init__(self, peer: Peer, setting: Setting, *, free: bool = False) -> None:
        """Starts the peer on the first processor, or `free` on all."""
        self.peer, self.port, self.tls = peer, setting.port, setting.tls
        setting.folder.mkdir(parents=True)
        self.folder = setting.folder
        command = peer.command(setting)
        command = command if free else pinned(command, 0)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        began = time.perf_counter()
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self._wait_for_greeting(began + 10)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - began
        proc.settled_cpu_seconds(self.pid, 0, limit=0.3)
        self.processes = len(proc.tree(self.pid))

    def _wait_for_greeting(self, end: float) -> None:
        while not self._greets():
            if self._process.poll() is not None:
                raise BenchError(f"ended with code {self._process.returncode}{self._last_words()}")
            if time.perf_counter() > end:
                raise BenchError(f"no greeting after 10 s{self._last_words()}")
            time.sleep(0.002)

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
                if not self.tls:
                    return link.recv(100).startswith(b"* OK")
                with self._context.wrap_socket(link) as wrapped:
                    return wrapped.recv(100).startswith(b"* OK")
        except OSError:
            return False

    def _last_words(self) -> str:
        for name in ("output", "log", "error.log"):
            path = self.folder / name
            lines = path.read_text(errors="replace").split("\n") if path.exists() else []
            said = [line for line in lines if line.strip()]
            if said:
                return f": {said[-1][:200]}"
        return ""

    def stop(self) -> None:
        """Ends the peer and whatever it has started."""
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
