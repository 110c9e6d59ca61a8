"""The Containerfile: built by buildah, then its entry point as the first process of a container."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, required
from tests.servers.dovecot import Dovecot
from tests.servers.ports import free_port, listens, wait_for
from tests_package.login import log_in

pytestmark = pytest.mark.timeout(600)

USER, PASSWORD = "kim", "secret"
BASE = "docker.io/library/debian:bookworm-slim"
# This machine's way to Python packages, which is no part of the image.
PIP, AUTHORITIES = Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt")


class Image:
    """The built image, unpacked."""

    def __init__(self, folder: Path, base: Path) -> None:
        self._words = [
            required("buildah"), "--storage-driver", "vfs", "--root", str(folder / "storage"),
            "--runroot", str(folder / "run"),
        ]  # fmt: skip
        slim = folder / "slim"
        slim.mkdir(parents=True)
        subprocess.run(
            ["tar", "-xf", base, "-C", slim, "--exclude=./srv/*", "--exclude=./var/cache/apt/*"],
            check=True,
        )
        (slim / "var/cache/apt/archives/partial").mkdir(parents=True)
        container = self.run("from", "scratch").strip()
        self.run("add", "--quiet", container, str(slim), "/")
        self.run("commit", "--quiet", container, BASE)
        self.run("rm", container)
        shutil.rmtree(slim)
        volumes = []
        if PIP.exists():
            pip = folder / "pip.conf"
            pip.write_text(PIP.read_text().replace(str(AUTHORITIES), "/mnt/ca.crt"))
            volumes = [f"--volume={pip}:{PIP}:ro", f"--volume={AUTHORITIES}:/mnt/ca.crt:ro"]
        self.run("bud", "--pull-never", "--isolation", "chroot", *volumes, "--tag", "perdition",
                 str(ROOT))  # fmt: skip
        self.container = self.run("from", "--pull-never", "perdition").strip()
        self.root = self.run("mount", self.container).strip()
        seen: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", "perdition"))
        self.config: dict[str, Any] = seen["OCIv1"]["config"]

    def run(self, *words: str) -> str:
        done = subprocess.run([*self._words, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def close(self) -> None:
        self.run("umount", "--all")
        self.run("rm", "--all")


@pytest.fixture(scope="module")
def image(folder: Path, base: Path) -> Iterator[Image]:
    image = Image(folder / "image", base)
    yield image
    image.close()


def test_the_image_runs_in_the_foreground(image: Image, folder: Path, certificates: Path) -> None:
    assert image.config["Entrypoint"] == ["perdition", "--from_environment"]
    assert {"143/tcp", "993/tcp", "110/tcp", "995/tcp", "4190/tcp"} == set(
        image.config["ExposedPorts"]
    )
    for name in ("cert.pem", "key.pem"):
        shutil.copy(certificates / name, f"{image.root}/etc/{name}")
    port = free_port()
    with Dovecot(required("dovecot"), folder / "dovecot", {USER: PASSWORD}) as dovecot:
        variables = {
            "OUTGOING_SERVER": "127.0.0.1", "OUTGOING_PORT": str(dovecot.port), "NO_LOOKUP": "yes",
            "BIND_ADDRESS": "127.0.0.1", "LISTEN_PORT": str(port), "WORKERS": "1",
            "SSL_MODE": "ssl_listen", "SSL_CERT_FILE": "/etc/cert.pem",
            "SSL_KEY_FILE": "/etc/key.pem", "PORT_993_TCP": "tcp://10.0.0.1:993",
        }  # fmt: skip
        settings = [*image.config["Env"], *(f"PERDITION_{k}={v}" for k, v in variables.items())]
        words = [
            required("systemd-nspawn"), "--quiet", "--directory", image.root, "--register=no",
            "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off",
            "--link-journal=no", f"--machine=perdition-image-{os.getpid()}",
            *(f"--setenv={each}" for each in settings),
            "--", f"/opt/perdition/bin/{image.config['Entrypoint'][0]}",
            *image.config["Entrypoint"][1:], "--timeout", "60",
        ]  # fmt: skip
        output = folder / "output"
        with open(output, "wb") as file:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file)
        try:
            wait_for(lambda: listens(port) or process.poll() is not None, "it does not listen")
            assert process.poll() is None, output.read_text()
            log_in(port, USER, PASSWORD, authority=str(certificates / "ca.pem"))
            wait_for(lambda: 'status="ok"' in output.read_text(), "no line on standard output")
            # It is the first process there, and ends as any container is ended.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            first = int(children.split()[0])
            status = Path(f"/proc/{first}/status").read_text()
            assert f"\nNSpid:\t{first}\t1\n" in status
            os.kill(first, signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    left = subprocess.run(
        ["find", f"{image.root}/run", f"{image.root}/var/run/", "-name", "*.pid"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert left == ""
