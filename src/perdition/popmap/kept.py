"""A database file kept open, and opened anew when it has changed.

What file maps share. Between two openings costs a look-up one stat(2). A file that is being written
(locked by its writer, as makegdbm locks its own) can't be told from one with users missing, so it
is an error for as long as that takes.
Invariant: an answer is from the file as it is now, or there is none.
"""

from __future__ import annotations

import fcntl
import os
from abc import abstractmethod

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Mark, Popmap, Query, mark_of, route_of
from perdition.route import Route


class KeptFile(Popmap):
    """A map in a file that a library reads; who inherits says how."""

    DEFAULT = ""

    def __init__(self, option: str) -> None:
        self.path = option or self.DEFAULT
        self._mark: Mark | None = None  # of the file that is open

    @abstractmethod
    def _open(self) -> None:
        """Open the file; MapError or OSError when that is not possible."""

    @abstractmethod
    def _fetch(self, key: bytes) -> bytes | None:
        """Return the value of a key; MapError when the file is broken."""

    @abstractmethod
    def _close(self) -> None:
        """Close the file; harmless when it is closed."""

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT:
            return None
        try:
            stat = os.stat(self.path)
        except (OSError, ValueError) as error:
            self.close()
            raise self._trouble(error) from None
        mark = mark_of(stat)
        if mark != self._mark:
            self.close()
            self._open_quiet_file()
            self._mark = mark
        value = self._fetch(query.key)
        return None if value is None else route_of(value, query.delimiter)

    def close(self) -> None:
        """Close the file until the next look-up."""
        self._mark = None
        self._close()

    def _open_quiet_file(self) -> None:
        """Open the file while nobody writes it; the lock is held no longer than that."""
        try:
            with open(self.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._open()
        except BlockingIOError:
            raise MapError(f"{self.path}: is being written") from None
        except OSError as error:
            raise self._trouble(error) from None

    def _trouble(self, error: Exception) -> MapError:
        return MapError(f"{self.path}: {getattr(error, 'strerror', None) or error}")
