"""What the package tests share: the packages, a clean Debian, boxes made of it.

They need root, Debian 12's archive as apt has it, and minutes; `make test-package` runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.conftest import ROOT, certificates, lacking, required
from tests_package.box import Box

__all__ = ["certificates"]

RELEASE = "bookworm"
MAPS = ("ldap", "mysql", "odbc", "postgresql")
# In the root beside what every Debian has: the user's server, and what the tests look with.
TOOLS = ("systemd-sysv", "dbus", "iproute2", "netbase", "procps", "dovecot-imapd")
FETCH = 'chroot "$1" apt-get install -y -q --download-only --no-install-recommends '

Boxes = Callable[..., Box]


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Only root can make a root."""
    if os.geteuid() != 0:
        lacking("only root can test packages")


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Give a temporary folder for all that is large; everybody may look in."""
    with tempfile.TemporaryDirectory(prefix="perdition-package-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def packages(folder: Path) -> Path:
    """Build the Debian packages; give their folder."""
    required("dpkg-buildpackage")
    built = folder / "deb"
    done = subprocess.run(
        ["bash", ROOT / "tools/deb.sh", built], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="session")
def wheel(folder: Path) -> Path:
    """Build the wheel as pip does from the source."""
    built = folder / "wheel"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built, ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = built.glob("*.whl")
    return found


def sources() -> str:
    """The lines for sources.list that say where this machine gets its Debian from."""
    wanted = "$(TARGET_OF) $(CODENAME) $(SITE) $(COMPONENT)"
    listed = subprocess.run(
        [required("apt-get"), "indextargets", "--format", wanted, "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines: dict[str, None] = {}
    for line in listed.splitlines():
        kind, codename, site, component = line.split(" ")
        if kind == "deb" and codename.partition("-")[0] == RELEASE and component == "main":
            lines[f"deb {site} {codename} main"] = None
    return "\n".join(lines) or lacking(f"apt has no {RELEASE}")


@pytest.fixture(scope="session")
def base(folder: Path, packages: Path) -> Path:
    """Make a clean Debian with Dovecot in a tarball, and beside it all that will be installed."""
    required("mmdebstrap")
    tarball = folder / "base.tar"
    ours = " ".join(f"/srv/deb/{each.name}" for each in packages.glob("*.deb"))
    old = " ".join(["perdition", *(f"perdition-{each}" for each in MAPS)])
    done = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(TOOLS)}",
         "--skip=cleanup/apt", "--skip=cleanup/tmp",
         '--customize-hook=mkdir -p "$1/srv/deb"',
         '--customize-hook=echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/fast"',
         f'--customize-hook=cp {packages}/*.deb "$1/srv/deb"',
         f"--customize-hook={FETCH}{old}", f"--customize-hook={FETCH}{ours}",
         "--customize-hook=chroot \"$1\" rm -f /etc/machine-id /var/lib/dbus/machine-id",
         "--customize-hook=touch \"$1/etc/machine-id\"",
         RELEASE, tarball, "-"],
        input=sources(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return tarball


@pytest.fixture
def boxes(base: Path, folder: Path) -> Iterator[Boxes]:
    """Make boxes of the clean Debian; each gone at the test's end."""
    with ExitStack() as open_boxes:

        def make(prepare: Callable[[Box], None] | None = None, *, boot: bool = True) -> Box:
            place = Path(tempfile.mkdtemp(prefix="box-", dir=folder))
            box = Box(base, place, boot=boot)
            if prepare is not None:
                prepare(box)
            return open_boxes.enter_context(box)

        yield make
