"""Regular expressions that find just ENTRIES; see `battery`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """A file with one anchored expression for each entry."""
    path = folder / "popmap.re"

    def fill(entries: Entries) -> None:
        new = folder / "new"
        lines = [
            b'"^%s$" "%s"\n' % (re.escape(key).replace(b"\\", b"\\\\"), value)
            for key, value in entries.items()
        ]
        new.write_bytes(b"".join(lines))
        os.replace(new, path)

    fill(ENTRIES)
    yield Filled(str(path), fill)
