"""How many clients there may be, over all workers and generations of a daemon: as one sees it."""

from __future__ import annotations

from functools import partial

from perdition.config import Config
from perdition.server.counters import Counters
from perdition.session.addresses import Arrivals, Cells, Penalties


class ConnectionLimit:
    """``connection_limit``, exactly; 0 is no limit."""

    def __init__(self, counters: Counters, column: int, limit: int) -> None:
        self.limit = limit
        self._counters = counters
        # One cell each, this worker's own.
        self._sessions = counters.row("sessions")[column : column + 1]
        self._connections = counters.row("connections")[column : column + 1]
        self._refused = counters.row("refused")[column : column + 1]

    def enter(self) -> bool:
        """Count a client in, if there is room for it."""
        self._connections[0] += 1
        if not self.limit:
            self._sessions[0] += 1
            return True
        with self._counters.locked():
            if self._counters.total("sessions") < self.limit:
                self._sessions[0] += 1
                return True
        self._refused[0] += 1
        return False

    def leave(self) -> None:
        """Count out a client that was let in."""
        self._sessions[0] -= 1


def make_arrivals(config: Config, counters: Counters, column: int) -> Arrivals | None:
    """``address_connection_limit`` of one worker; None: there is no limit."""
    counters.row("alive")[column] = 1
    if not config.address_connection_limit:
        return None
    others = partial(counters.other_arrivals, column)
    return Arrivals(config.address_connection_limit, counters.arrivals(column), others)


def make_penalties(config: Config, cells: Cells) -> Penalties | None:
    """What ``failure_delay`` asks for; None: nobody waits."""
    if not config.failure_delay:
        return None
    return Penalties(cells, config.failure_delay, config.failure_delay_limit)
