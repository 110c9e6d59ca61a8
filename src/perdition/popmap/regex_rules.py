"""What both engines of the regex map share: a line of the file, and the pieces of an expression."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """A line of the file."""

    number: int
    expression: bytes  # in the spelling of the engine
    answer: bytes


class Found(NamedTuple):
    """The first rule that matches."""

    start: int  # where in the key
    groups: tuple[bytes, ...]  # the texts of $0 and those behind it
    answer: bytes


# POSIX syntax with the extensions of the GNU C library, piece by piece.
PIECE = re.compile(
    rb"""
      (?P<class> \[ \^? \]? (?: \[:[^]]*:\] | \[\.[^]]*\.\] | \[=[^]]*=\] | [^]] )* \] )
    | \\ (?P<escaped> . )
    | (?P<atmost> \{ (?=,\d) )
    | (?P<plain> . )
    """,
    re.VERBOSE | re.DOTALL,
)
