"""The place where clients are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.clients.place import USERS, Place
from tests.servers.dovecot import Dovecot


@pytest.fixture(scope="module")
def place(folder: Path, certificates: Path, need: Callable[[str], str]) -> Iterator[Place]:
    """Dovecot with all protocols in all modes, and ours before it."""
    with (
        Dovecot(need("dovecot"), folder / "dovecot", USERS, certificates) as dovecot,
        Place(folder, certificates, dovecot) as place,
    ):
        yield place
