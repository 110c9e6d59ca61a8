"""Berkeley DB, written by the tool of 2.2; see `battery`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from tests.popmap import gdbm
from tests.popmap.battery import Filled


def filled(folder: Path) -> AbstractContextManager[Filled]:
    """A file with ENTRIES."""
    return gdbm.filled(folder, "makebdb")
