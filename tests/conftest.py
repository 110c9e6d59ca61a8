"""What all tests share: programs they need, and nothing left running."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trustme
from tests.servers.dovecot import Dovecot
from tests.servers.endings import end_all

ROOT = Path(__file__).parents[1]

# Debian keeps some of them from the PATH of ordinary users.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"))


def find_program(name: str) -> str | None:
    """Return the path of a program, None if this machine has none."""
    return shutil.which(name, path=_PATH)


def lacking(why: str) -> NoReturn:
    """Skip the test, whose means this machine has not; fail where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def required(name: str) -> str:
    """Return the path of a program that a test can't do without."""
    return find_program(name) or lacking(f"{name} is not installed: see tests/packages.txt")


def pytest_sessionfinish() -> None:
    """Leave nothing running."""
    end_all()


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """Give the path of a program; without it the test is skipped, or fails where CI=true."""
    return required


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a temporary folder that servers which drop their privileges can enter."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def dovecot(
    request: pytest.FixtureRequest, folder: Path, need: Callable[[str], str]
) -> Iterator[Dovecot]:
    """Dovecot with the users of the module's ``USERS``, in clear text."""
    with Dovecot(need("dovecot"), folder / "dovecot", request.module.USERS) as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with ca.pem, cert.pem and key.pem for localhost, and dhparm.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    shutil.copy(ROOT / "tools/ffdhe2048.pem", folder / "dhparm.pem")
    return folder
