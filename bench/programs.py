"""The two C programs: built with the system compiler, pinned to a processor, spoken to in lines."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import proc

HERE = Path(__file__).parent
BIN = HERE / "bin"
_SOURCES = {"load": ("load.c", "client.c"), "backend": ("backend.c",)}
_HEADERS = ("client.h",)
_LIBRARIES = ("-lssl", "-lcrypto")


class BenchError(Exception):
    """Something is missing or went wrong; the text is for the person who runs the bench."""


def build() -> None:
    """Compiles what is older than its source."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("no C compiler (Debian: gcc libc6-dev libssl-dev)")
    BIN.mkdir(exist_ok=True)
    for name, files in _SOURCES.items():
        target = BIN / name
        sources = [str(HERE / file) for file in files]
        newest = max((HERE / file).stat().st_mtime for file in (*files, *_HEADERS))
        if target.exists() and target.stat().st_mtime >= newest:
            continue
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), *sources, *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{name} does not compile (Debian: libssl-dev?):\n{done.stderr}")


def key_pair(folder: Path, kind: str = "P-256") -> tuple[Path, Path]:
    """Makes a self-signed certificate: on that curve, or of an RSA key of so many bits."""
    if not shutil.which("openssl"):
        raise BenchError("no openssl (Debian: openssl)")
    name = kind.replace(":", "-")
    certificate, key = folder / f"cert-{name}.pem", folder / f"key-{name}.pem"
    curve = ["-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{kind}"]
    new = ["-newkey", kind] if kind.startswith("rsa:") else curve
    files = ["-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", *new, *files, "-days", "2", "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    return certificate, key


def pinned(command: Sequence[str], processor: int) -> list[str]:
    """Ties a command to one of the processors, when there is more than one."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2 or not shutil.which("taskset"):
        return list(command)
    return ["taskset", "-c", str(available[processor % len(available)]), *command]


@contextmanager
def unbroken() -> Iterator[Callable[[], object]]:
    """Holds back interruptions, so that no child begins that nobody knows of; for one thread.

    Gives what the child has to call first, or they would be held back there, too.
    """
    held = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    release = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
    try:
        yield release
    finally:
        release()


class Program:
    """One of the C programs, running inside a `with`."""

    def __init__(self, *command: str, free: bool = False) -> None:
        """Runs on the second processor, or `free` on all."""
        self._command = [str(BIN / command[0]), *command[1:]]
        if not free:
            self._command = pinned(self._command, 1)
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Reads what the program says first."""

    def read(self) -> str:
        """Waits for the program's next line."""
        line = self._stdout.readline()
        if not line:
            raise BenchError(f"{self._command!r} ended early")
        return line

    def cpu_seconds(self) -> float:
        """Says what it has used so far."""
        assert self._process is not None
        return proc.cpu_seconds(self._process.pid)

    def go(self) -> None:
        """Tells the program to go on."""
        self._stdin.write("\n")
        self._stdin.flush()

    def __enter__(self) -> Self:
        try:
            with unbroken() as release:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                    preexec_fn=release,  # noqa: PLW1509 - there is one thread
                )
                assert process.stdin is not None
                assert process.stdout is not None
                self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
            self.begin()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is None:
            return  # it never began
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass


class Backend(Program):
    """The do-nothing IMAP server."""

    def __init__(self) -> None:
        super().__init__("backend")
        self.port = 0

    def begin(self) -> None:
        self.port = int(self.read().split()[1])

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Has it not sleep while it waits."""
        self.go()
        try:
            yield
        finally:
            self.go()


@dataclass(frozen=True)
class Figures:
    """What the load client saw: seconds and bytes of the work, µs a login or command."""

    count: int
    seconds: float
    p50_us: int
    p99_us: int
    moved: int
    resumed: int
    alive: int


class Load(Program):
    """The load client: entered, it is ready; then `work` once."""

    def __init__(self, mode: str, port: int, *, free: bool = False, **options: int | str) -> None:
        given = [f"--{name}={value}" for name, value in options.items()]
        super().__init__("load", mode, f"--port={port}", *given, free=free)

    def begin(self) -> None:
        self._event()

    def _event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.read())
        if event["errors"] or event["timed_out"]:
            late = "out of time, " if event["timed_out"] else ""
            raise BenchError(f"load: {late}{event['errors']} errors, first: {event['error']}")
        return event

    def work(self) -> Figures:
        """Runs the load to its end."""
        self.go()
        done = self._event()
        return Figures(
            count=done["count"],
            seconds=done["seconds"],
            p50_us=done["p50_us"],
            p99_us=done["p99_us"],
            moved=done["received"] + done["sent"],
            resumed=done["resumed"],
            alive=done["alive"],
        )
