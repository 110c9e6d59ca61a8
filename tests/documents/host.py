"""A host of its own for what the documents tell an administrator: its /etc, /usr/bin and network.

Nothing that is written there, and no port that is opened, is seen outside.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.conftest import ROOT, required
from tests.servers.ports import PATIENCE, end

_LAID_OVER = ("/etc", "/opt", "/root", "/usr/bin", "/usr/sbin", "/var/log")
_MAKE = """\
set -e
mount -t tmpfs none {folder}
for there in {laid_over}; do
    mkdir -p {folder}/new$there {folder}/work$there
    mount -t overlay overlay \\
        -o lowerdir=$there,upperdir={folder}/new$there,workdir={folder}/work$there $there
done
mkdir -p /run/perdition
mount -t tmpfs none /run/perdition
rm -rf /usr/sbin/perdition* /usr/bin/perdition* /usr/bin/make?*db* /etc/perdition \\
    /etc/default/perdition /etc/sysusers.d/perdition.conf
mkdir /opt/perdition
mount --bind {environment} /opt/perdition
ip link set lo up
ip address add 10.0.0.5/32 dev lo
echo ready
exec sleep infinity
"""


class Host:
    """See the module. A context that ends with it; in it an IMAP server has 10.0.0.5:143."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nsenter, self._pymap = required("nsenter"), Path(sys.prefix, "bin/pymap")
        script = _MAKE.format(folder=folder, laid_over=" ".join(_LAID_OVER), environment=sys.prefix)
        required("ip")
        self.process = subprocess.Popen(
            [required("unshare"), "--mount", "--net", "sh", "-c", script], stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self._inside = [self._nsenter, f"--target={self.process.pid}", "--mount", "--net"]
        self.server = subprocess.Popen(
            [*self._inside, self._pymap, "--host", "10.0.0.5", "--port", "143", "--no-tls", "dict",
             "--demo-data"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while "OK" not in self.run("curl -sv --max-time 1 imap://10.0.0.5 2>&1", status=None):
            assert time.monotonic() < until, "no IMAP server"
        return self

    def __exit__(self, *_: object) -> None:
        self.run("perdition-service stop", status=None)
        end(self.server)
        end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def run(self, command: str, status: int | None = 0, said: str = "") -> str:
        """Run what stands in the documents, by a shell in the project's folder; what it prints.

        `said`: what is typed meanwhile. `status` None: any will do.
        """
        done = subprocess.run(
            [*self._inside, "bash", "-e", "-c", f"cd {ROOT}; {command}"], input=said,
            capture_output=True, text=True, check=False, timeout=18,
        )  # fmt: skip
        shown = done.stdout + done.stderr
        assert "Traceback" not in shown
        assert status is None or done.returncode == status, f"{command}\n{shown}"
        return shown

    def write(self, path: str, text: str) -> None:
        """Write a file as it stands in the documents."""
        self.run(f"cat >{path}", said=text)
