"""A text file kept in memory, read again by itself when it changes.

What text maps share. A change is noticed by the next look-up and read in a thread; a file that
can't be used is told, and what was read before stays in force. Who writes a new file aside and
renames it is never read half; one who writes it in place may be, until he has ended.
"""

from __future__ import annotations

import os
from abc import abstractmethod

from perdition.errors import MapError
from perdition.popmap.base import Mark, Popmap, Stale, mark_of

FILE_LIMIT = 1 << 30  # bytes


class WatchedFile(Popmap):
    """A map in a text file; who inherits says how it is read and asked."""

    DEFAULT = ""

    def __init__(self, option: str) -> None:
        self.path = option or self.DEFAULT
        self._seen: Mark | None = None  # the file that was read
        self._bad: Mark | None = None  # the file that could not be

    @abstractmethod
    def _read(self, content: bytes) -> None:
        """Take the file's content; MapError leaves everything as it was."""

    def open(self) -> None:
        """Read the file; MapError when it can't be used."""
        try:
            with open(self.path, "rb") as file:
                stat = os.fstat(file.fileno())
                content = file.read(FILE_LIMIT + 1)
                still = mark_of(os.fstat(file.fileno())) == mark_of(stat)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise MapError(f"{self.path}: {why}") from None
        if len(content) > FILE_LIMIT:
            raise MapError(f"{self.path}: larger than {FILE_LIMIT} bytes")
        if not still:
            raise MapError(f"{self.path}: is being written")
        self._read(content)
        self._seen, self._bad = mark_of(stat), None

    def refresh(self) -> None:
        """Read the file, which has changed."""
        try:
            self.open()
        except MapError:
            self._bad = self._mark()
            raise

    def _check(self) -> None:
        """Raise Stale when the file is neither the one that was read nor one that can't be."""
        if self._mark() not in (self._seen, self._bad):
            raise Stale

    def _mark(self) -> Mark:
        try:
            stat = os.stat(self.path)
        except OSError as error:
            return (error.errno or 0,)
        return mark_of(stat)
