"""What a rule finds.

Levels: with an error nobody can log in, perdition does not start, or a reload keeps the old
configuration; a warning is a danger or surely not what was meant; a note is worth knowing.
"""

from __future__ import annotations

from typing import NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"


class Finding(NamedTuple):
    """One thing found; the text is fit for the log, and names its option."""

    level: str
    option: str  # whose place is shown; empty: none
    text: str
    place: str = ""  # FILE:LINE, where the option alone does not say it
