"""The blocks of the documents: what is set apart as a command, a file, or what a program says."""

from __future__ import annotations

from typing import NamedTuple

from tests.conftest import ROOT


class Block(NamedTuple):
    """One block; `about` is the paragraph above it."""

    page: str
    text: str
    about: str

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]


def _blocks(page: str) -> list[Block]:
    found, about = [], ""
    lines = iter(["", *(ROOT / page).read_text().splitlines(), ""])
    before = ""
    for line in lines:
        if line.startswith("```"):
            inside = []
            while not (line := next(lines)).startswith("```"):
                inside.append(line)
            found.append(Block(page, "".join(f"{each}\n" for each in inside), about))
        elif line.startswith("    ") and not before.strip():
            inside = []
            while line.startswith("    "):
                inside.append(line[4:])
                line = next(lines)  # noqa: PLW2901 - the block is read to its end
            found.append(Block(page, "".join(f"{each}\n" for each in inside), about))
        elif line.strip():
            about = f"{about} {line}" if before.strip() else line
        before = line
    return found


PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
BLOCKS = [block for page in PAGES for block in _blocks(page)]


def block(page: str, first: str) -> Block:
    """The one block of a page that begins so."""
    (found,) = [each for each in BLOCKS if each.page == page and each.first.startswith(first)]
    return found
