"""The flat text file, see `battery`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled


def text_of(entries: Entries) -> bytes:
    """Entries as the flat file has them, and as the tools that make other files take them."""
    return b"".join(b"%s:%s\n" % each for each in entries.items())


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A file with ENTRIES."""
    path = folder / "popmap"

    def fill(entries: Entries) -> None:
        new = folder / "new"
        new.write_bytes(text_of(entries))
        os.replace(new, path)

    fill(ENTRIES)
    yield Filled(str(path), fill)
