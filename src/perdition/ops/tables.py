"""Tables for a terminal: columns as wide as they need, the widest cut where there is no room.

Where that is not enough the last columns are left out.

Texts may be a stranger's: what would move the cursor is escaped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_LEAST = 8  # characters that a column keeps
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))


def width_of_terminal() -> int | None:
    """Columns of the terminal; None where the output is no terminal, which cuts nothing."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], width: int | None, whole: str = ""
) -> list[str]:
    """Render rows below their heads; numbers are set to the right, columns never touch.

    The column `whole` is never cut: it holds what is typed again.
    """
    texts = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(heads, *texts, strict=True)]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        cut = [0 if head == whole else width for head, width in zip(heads, widths, strict=False)]
        if max(cut) > _LEAST:
            widths[cut.index(max(cut))] -= 1
        elif len(widths) > 1:
            widths.pop()
        else:
            break
    right = [bool(rows) and all(isinstance(row[n], int) for row in rows) for n in range(len(heads))]
    return [_line(line, widths, right) for line in (heads, *texts)]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = []
    for cell, width, to_right in zip(cells, widths, right, strict=False):
        shown = cell if len(cell) <= width else cell[: width - 1] + "…"
        parts.append(shown.rjust(width) if to_right else shown.ljust(width))
    return "  ".join(parts).rstrip()


def plain(cell: object) -> str:
    """A cell's text, without anything that is not printable."""
    text = "-" if cell is None or cell == "" else str(cell)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def span(seconds: int | None) -> str:
    """Write a span of time in its two largest units."""
    if seconds is None:
        return "-"
    parts = []
    for size, unit in _UNITS:
        if seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    if len(parts) < 2 and (seconds or not parts):
        parts.append(f"{seconds}s")
    return "".join(parts[:2])


def size(count: int) -> str:
    """Write a number of bytes with a unit."""
    value, units = float(count), "BkMGTP"
    while value >= 1000 and units[1:]:
        value, units = value / 1000, units[1:]
    return f"{count}" if units[0] == "B" else f"{value:.1f}{units[0]}"
