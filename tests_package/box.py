"""A small Debian of its own: a root folder, booted or not, with a loopback and nothing else.

systemd-nspawn runs it with namespaces of its own; nothing is registered or left on the host.
Commands enter by nsenter(1). A client enters its network only, with this machine's programs.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from tests.conftest import required

PATIENCE = 90.0  # seconds for a boot
LOGIN = Path(__file__).with_name("login.py")
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "RUNLEVEL": "2", "PREVLEVEL": "N",  # for invoke-rc.d where there is no init to ask
}  # fmt: skip
# What packages make anew by themselves, and what is no file of theirs.
_UNSTEADY = (
    "dev", "proc", "run", "sys", "tmp", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log",
    "var/tmp", "root", "srv", "etc/ld.so.cache", "etc/group-", "etc/gshadow-", "etc/passwd-",
    "etc/shadow-", "etc/machine-id",
)  # fmt: skip


_numbers = itertools.count(1)


class Box:
    """A root folder that lives while the context does."""

    def __init__(self, tarball: Path, folder: Path, *, boot: bool = True) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        subprocess.run([required("tar"), "-xf", tarball, "-C", self.root], check=True)
        self._name = f"perdition-{os.getpid()}-{next(_numbers)}"
        self._boot = boot
        self._log = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0  # of its first process

    def __enter__(self) -> Box:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start(self) -> None:
        """Boot it, or have it idle; return when commands can be run."""
        words = [
            # Should we be killed, it is told to end: what is in it ends as on any machine.
            required("setpriv"), "--pdeathsig=TERM",
            required("systemd-nspawn"), "--quiet", "--directory", str(self.root), "--register=no",
            "--keep-unit", "--private-network", "--resolv-conf=off", "--timezone=off",
            "--link-journal=no", "--console=pipe", f"--machine={self._name}",
        ]  # fmt: skip
        words += ["--boot"] if self._boot else ["--as-pid2", "sleep", "infinity"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
            )
        end = time.monotonic() + PATIENCE
        while not self._is_up():
            assert self._process.poll() is None and time.monotonic() < end, self.console()
            time.sleep(0.1)

    def console(self) -> str:
        return self._log.read_text(errors="replace")

    def _is_up(self) -> bool:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self.pid = int(children[0])
        if not self._boot:
            return not self("ip", "link", "set", "lo", "up", check=False).returncode
        said = self("systemctl", "is-system-running", check=False).stdout.strip()
        return said in ("running", "degraded")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self.pid:  # the kernel ends all in it with its first process
                try:
                    os.kill(self.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                _await_end(self.pid)
        shutil.rmtree(self.root)
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{self._name}", ignore_errors=True)

    # -- what is done in it -------------------------------------------------------------------

    def __call__(
        self, *words: str | Path, check: bool = True, seconds: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, without any input; by default it must succeed."""
        # Into files: a daemon that is started here would hold a pipe open.
        with TemporaryFile("w+", errors="replace") as out, TemporaryFile("w+") as err:
            code = subprocess.run(
                [required("nsenter"), f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net",
                 "--pid", "--cgroup", "--root", "--wd", *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=ENVIRONMENT,
                timeout=seconds, check=False,
            ).returncode  # fmt: skip
            for file in (out, err):
                file.seek(0)
            done = subprocess.CompletedProcess(list(words), code, out.read(), err.read())
        if check:
            assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done

    def apt(self, *words: str) -> str:
        """Run apt-get on what is there, as a script would; return all that it said."""
        done = self(
            "apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "-o",
            "APT::Install-Recommends=no", "-o", "APT::AutoRemove::RecommendsImportant=no",
            "-o", "APT::AutoRemove::SuggestsImportant=no", *words,
        )  # fmt: skip
        return done.stdout + done.stderr

    def login(self, port: int, *words: str, check: bool = True) -> str:
        """Log in through its loopback by login.py; return what the server said."""
        done = subprocess.run(
            [required("nsenter"), f"--target={self.pid}", "--net", sys.executable, LOGIN,
             str(port), *words],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def held(self, port: int, *words: str) -> Iterator[None]:
        """A session that must be there all the while, and still be good at the end."""
        with subprocess.Popen(
            [required("nsenter"), f"--target={self.pid}", "--net", sys.executable, LOGIN, "--hold",
             str(port), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            said = [process.stdout.readline() for _ in range(3)]
            assert said[2] == "held\n", said
            yield
            more, _ = process.communicate("\n", timeout=30)
            assert process.returncode == 0, more

    def wait_for_login(self, port: int, *words: str) -> None:
        """Log in as soon as somebody listens."""
        end = time.monotonic() + 20
        while "refused" in (said := self.login(port, *words, check=False)):
            assert time.monotonic() < end, said
            time.sleep(0.2)
        self.login(port, *words)

    # -- what there is ------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """A file of its, as the host sees it; not for /run, /dev, /tmp and the like."""
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def titles(self) -> list[str]:
        """The titles of Perdition's processes, sorted; 2.2's children are not told from it."""
        listed = self("ps", "-e", "-o", "args=").stdout.splitlines()
        return sorted({each.strip() for each in listed if each.startswith("perdition.")})

    def version(self, package: str = "perdition") -> str:
        """The version that is installed; empty if none is."""
        done = self("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package,
                    check=False)  # fmt: skip
        status, _, version = done.stdout.partition(" ")
        return version if status == "installed" else ""

    def files(self) -> dict[str, str]:
        """Path -> what is there, for all that lasts."""
        found: dict[str, str] = {}
        for folder, folders, names in os.walk(self.root):
            inside = os.path.relpath(folder, self.root)
            folders[:] = [
                each for each in folders
                if os.path.normpath(os.path.join(inside, each)) not in _UNSTEADY
            ]  # fmt: skip
            for name in (*names, *folders):
                path = Path(folder, name)
                what = f"-> {os.readlink(path)}" if path.is_symlink() else "folder"
                if path.is_file() and not path.is_symlink():
                    what = f"{path.stat().st_size} bytes"
                if os.path.normpath(os.path.join(inside, name)) not in _UNSTEADY:
                    found[os.path.normpath(os.path.join("/", inside, name))] = what
        return found


def _await_end(pid: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # whoever inherits it may take its time
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} does not end")
