"""A shell script that greps a file, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.popmap.battery import ENTRIES, Entries, Filled
from tests.popmap.flat import text_of

SCRIPT = """\
#!/bin/sh
# KEY on standard input -> value of KEY:value in the file, 1 if there is none.
IFS= read -r key
[ ! -e "$1.hangs" ] || exec sleep 20
exec awk -v FILE="$1" 'BEGIN {
    key = ENVIRON["KEY"]
    while ((left = (getline line < FILE)) > 0) {
        at = index(line, ":")
        if (substr(line, 1, at - 1) == key) { print substr(line, at + 1); exit 0 }
    }
    exit left < 0 ? 75 : 1
}'
"""


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    """The script and its file."""
    path, away, script = folder / "text", folder / "away", folder / "look"

    def fill(entries: Entries) -> None:
        path.write_bytes(text_of(entries))

    def move(source: Path, target: Path) -> None:
        source.rename(target)

    fill(ENTRIES)
    script.write_text(SCRIPT.replace("exec awk", 'export KEY="$key"; exec awk'))
    script.chmod(0o755)
    yield Filled(
        f"{script} '{path}'", fill, lambda: move(path, away), lambda: move(away, path),
        path.with_suffix(".hangs").touch, path.with_suffix(".hangs").unlink,
    )  # fmt: skip
