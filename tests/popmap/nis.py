"""NIS: ypserv, rpcbind and ypbind in namespaces of their own, see `battery`.

Network, mounts, host name and with it the NIS domain are those of one process tree, which ends
with its first process; ypmatch is run in there by nsenter(1). Nothing of the host is changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from tests.conftest import lacking
from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.services import program
from tests.servers.endings import at_end
from tests.servers.ports import end, wait_for

from perdition.popmap import nis

DOMAIN = "perdition.test"
MAP = "people"

INSIDE = f"""\
set -e
ip link set lo up
domainname {DOMAIN}
mount -t tmpfs none /run
mount -t tmpfs none /var/yp
mkdir -p /run/rpcbind /var/yp/binding /var/yp/{DOMAIN}
echo 'domain {DOMAIN} server 127.0.0.1' >"$1/yp.conf"
mount --bind "$1/yp.conf" /etc/yp.conf
rpcbind -w
ypbind -n -local-only &
wait
"""


class Nis:
    """A domain with one map. Its server is stopped and started, the rest stays."""

    def __init__(self) -> None:
        if os.getuid() != 0:
            lacking("a private NIS domain needs root: namespaces and mounts")
        for name in ("rpcbind", "ypserv", "ypbind", "ypmatch", "nsenter"):
            program(name, "/usr/sbin", "/sbin")
        self.folder = Path(tempfile.mkdtemp(prefix="perdition-nis-"))
        at_end(partial(shutil.rmtree, self.folder, ignore_errors=True))
        path = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        apart = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")
        with (self.folder / "log").open("wb") as log:
            self._shell = subprocess.Popen(
                ["unshare", *apart, "--kill-child", "sh", "-c", INSIDE, "sh", self.folder],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=path,
            )  # fmt: skip
        at_end(partial(end, self._shell))
        self._server: subprocess.Popen[bytes] | None = None
        at_end(self.stop)
        self.ypmatch = self.folder / "ypmatch"
        wait_for(lambda: self._first() and self._is_bound(), f"see {self.folder}/log")
        self.ypmatch.write_text(f'#!/bin/sh\nexec {" ".join(self._within())} ypmatch "$@"\n')
        self.ypmatch.chmod(0o755)

    def _first(self) -> str:
        """The first process of the namespace, child of unshare(1)."""
        pid = self._shell.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()

    def _within(self) -> list[str]:
        return ["nsenter", "--target", self._first(), "--net", "--mount", "--uts", "--ipc"]

    def _is_bound(self) -> bool:
        """Whether ypbind answers; which server it found is another question."""
        found = self.run("rpcinfo", "-t", "127.0.0.1", "ypbind")
        return found.returncode == 0

    def run(
        self, *words: str, text: bytes = b"", whole: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in there; `whole`: with the numbers of its processes, too."""
        numbers = ("--pid",) if whole else ()
        return subprocess.run(
            [*self._within(), *numbers, *words],
            input=text,
            capture_output=True,
            timeout=15,
            check=False,
        )

    def fill(self, entries: Entries) -> None:
        lines = b"".join(b"%s %s\n" % pair for pair in entries.items() if b" " not in pair[0])
        done = self.run("/usr/lib/yp/makedbm", "-c", "-", f"/var/yp/{DOMAIN}/{MAP}", text=lines)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start the server if it does not run, and wait until the domain is bound to it."""
        if self._server is None:
            self._server = subprocess.Popen(
                [*self._within(), "ypserv", "--debug"], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        wait_for(lambda: self.run("ypwhich").returncode == 0, "ypbind finds no ypserv")
        wait_for(lambda: self.run("yppoll", MAP).returncode == 0, "ypserv does not answer")

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def pause(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)


@cache
def domain() -> Nis:
    """The one domain of this test run."""
    return Nis()


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """The map with ENTRIES; a key with a blank can't be in a NIS map."""
    service = domain()
    service.fill(ENTRIES)
    service.start()
    before, nis.Map.COMMAND = nis.Map.COMMAND, str(service.ypmatch)
    try:
        yield Filled(
            MAP, service.fill, service.stop, service.start, service.pause, service.resume,
            lacks=frozenset((b"two words",)),
        )  # fmt: skip
    finally:
        nis.Map.COMMAND = before
        service.start()
