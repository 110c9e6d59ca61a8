"""What all tests share: programs they need, and nothing left running."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

# Debian keeps some of them from the PATH of ordinary users.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"))


def find_program(name: str) -> str | None:
    """Return the path of a program, None if this machine has none."""
    return shutil.which(name, path=_PATH)


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """Give the path of a program; without it the test is skipped, or fails where CI=true."""

    def path_of(name: str) -> str:
        path = find_program(name)
        if path is None:
            why = f"{name} is not installed: see tests/packages.txt"
            if os.environ.get("CI") == "true":
                pytest.fail(why)
            pytest.skip(why)
        return path

    return path_of
