"""How many clients there may be, exact over all workers and generations of a daemon."""

from __future__ import annotations

from perdition.server.counters import Counters


class ConnectionLimit:
    """``connection_limit`` as one worker sees it; 0 is no limit."""

    def __init__(self, counters: Counters, column: int, limit: int) -> None:
        self.limit = limit
        self._counters = counters
        self._column = column
        self._sessions = counters.row("sessions")
        self._connections = counters.row("connections")
        self._refused = counters.row("refused")

    def enter(self) -> bool:
        """Count a client in, if there is room for it."""
        self._connections[self._column] += 1
        if not self.limit:
            self._sessions[self._column] += 1
            return True
        with self._counters.locked():
            if sum(self._sessions) < self.limit:
                self._sessions[self._column] += 1
                return True
        self._refused[self._column] += 1
        return False

    def leave(self) -> None:
        """Count out a client that was let in."""
        self._sessions[self._column] -= 1
