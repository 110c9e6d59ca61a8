"""Whether files of certificates and keys have changed, looked at by the master now and then.

A renewal writes several files one after the other: a change counts once a second look finds the
same. Invariant: one change is told once.
"""

from __future__ import annotations

import os
import time

from perdition.config import Config
from perdition.errors import StartError
from perdition.popmap.base import Mark, mark_of
from perdition.tls import watched_files

_SETTLES = 1.0  # seconds without a further change
_NEVER = float("inf")

Marks = dict[str, Mark]


class FileWatch:
    """See the module; `due` is when to call `changed` next, in monotonic seconds."""

    def __init__(self, config: Config) -> None:
        self.due = _NEVER
        self._changed: Marks | None = None  # what the last look found, if that was new
        self.look(config)

    def look(self, config: Config) -> None:
        """Take the files as they are now for those in use."""
        self._config = config
        self._marks = self._find()
        self._changed = None
        self._wait()

    def changed(self, now: float) -> bool:
        """Whether, when it is due, the files have changed and are settled."""
        if now < self.due:
            return False
        found = self._find()
        if found == self._marks:
            self._changed = None
            self._wait()
        elif found != self._changed:
            self._changed, self.due = found, now + _SETTLES
        else:
            self._marks, self._changed = found, None
            self._wait()
            return True
        return False

    def _wait(self) -> None:
        interval = self._config.ssl_watch_interval
        self.due = time.monotonic() + interval if interval and self._marks else _NEVER

    def _find(self) -> Marks:
        marks: Marks = {}
        try:
            files = watched_files(self._config)
        except (StartError, OSError):
            return marks
        for file in files:
            try:
                marks[file] = mark_of(os.stat(file))
            except OSError:
                marks[file] = ()
        return marks
