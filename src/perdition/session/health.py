"""Which servers are down or full, as one worker sees it, so that not every client waits for them.

A server that could not be reached is tried after the others. One that let a client wait until a
deadline is not tried at all for a while; then one client tries it and the others go on without.
Invariant: a server that works is never left out, unless an administrator has drained it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from perdition.route import Server

KEPT = 4096  # servers remembered
_WEIGHT = 0.125  # of the newest in a moving average


class Tally:
    """What one server did since this worker began."""

    __slots__ = ("answers", "failures", "seconds")

    def __init__(self) -> None:
        self.answers = 0  # logins that it accepted or refused
        self.failures = 0  # that it did not answer, or not now
        self.seconds = 0.0  # moving average from the start of a connection to an answer


class Health:
    """See the module; `retry` is in seconds, 0 tries every server every time."""

    def __init__(
        self, retry: float, most: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry = retry
        self._most = most  # sessions at one server; 0: no limit
        self._sessions: dict[Server, int] = {}
        self._clock = clock
        self._down: dict[Server, tuple[float, bool]] = {}  # until when; whether it was slow
        self._tallies: dict[Server, Tally] = {}
        # Servers that get no new sessions, hosts in small letters; without a port: any port.
        self.drained: frozenset[Server] = frozenset()

    def are_well(self, servers: tuple[Server, ...]) -> bool:
        """Whether none of these is down, and none at all drained: `order` would change nothing."""
        down = self._down
        return not self.drained and (not down or not any(server in down for server in servers))

    def order(self, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        """Return which of `servers` to try, in which order."""
        if self.drained:
            servers = tuple(server for server in servers if not self._is_drained(server))
        down = self._down
        if not down or not any(server in down for server in servers):
            return servers
        now = self._clock()
        up, late = [], []
        for server in servers:
            until, slow = down.get(server, (0.0, False))
            if until <= now:
                if slow:
                    down[server] = (now + self._retry, True)  # this client finds out for all
                up.append(server)
            elif not slow:
                late.append(server)
        return (*up, *late)

    def _is_drained(self, server: Server) -> bool:
        host = server.host.lower()
        return Server(host) in self.drained or Server(host, server.port) in self.drained

    def enter(self, server: Server) -> bool:
        """Count a session in, if there is room for it at `server`."""
        if self._most:
            there = self._sessions.get(server, 0)
            if there >= self._most:
                return False
            self._sessions[server] = there + 1
        return True

    def leave(self, server: Server) -> None:
        """Count out a session that was let in."""
        if self._most:
            there = self._sessions.pop(server) - 1
            if there:
                self._sessions[server] = there

    def failed(self, server: Server, *, slow: bool) -> bool:
        """The server could not be reached, `slow`: a deadline passed; say whether that is news."""
        if not self._retry:
            return False
        news = server not in self._down
        if len(self._down) >= KEPT:
            self._down.clear()
        self._down[server] = (self._clock() + self._retry, slow)
        return news

    def works(self, server: Server) -> bool:
        """The server answered; say whether that is news."""
        return bool(self._down) and self._down.pop(server, None) is not None

    # -- for who asks -----------------------------------------------------------------------

    def answered(self, server: Server, seconds: float) -> None:
        """The server accepted or refused a login, so long after the connection was begun."""
        tally = self._tallies.get(server) or self._tally(server)
        if tally.answers:
            tally.seconds += (seconds - tally.seconds) * _WEIGHT
        else:
            tally.seconds = seconds
        tally.answers += 1

    def disappointed(self, server: Server) -> None:
        """The server did not answer a login."""
        (self._tallies.get(server) or self._tally(server)).failures += 1

    def _tally(self, server: Server) -> Tally:
        if len(self._tallies) >= KEPT:
            self._tallies.clear()
        tally = self._tallies[server] = Tally()
        return tally

    def knows(self, drained: Server) -> bool:
        """Whether a server that `drained` means has been asked."""
        return any(is_meant(drained, server) for server in (*self._tallies, *self._down))

    def rows(self) -> Iterator[dict[str, object]]:
        """What is known of each server: a row of ``servers``, but for its sessions."""
        now = self._clock()
        for server in list({**self._tallies, **self._down, **dict.fromkeys(self.drained)}):
            row = row_of_server(str(server))
            if tally := self._tallies.get(server):
                row |= {"answers": tally.answers, "failures": tally.failures}
                row["latency"] = round(tally.seconds, 6) if tally.answers else None
            if server in self._down:
                until, slow = self._down[server]
                row["state"] = "slow" if slow else "down"
                row["retry"] = max(0, round(until - now))
            if self.drained and self._is_drained(server):
                row["state"] = "drained"
            yield row


def is_meant(drained: Server, server: Server) -> bool:
    """Whether a server is the one that was drained, or one of any port that was."""
    return server.host.lower() == drained.host and drained.port in ("", server.port)


def row_of_server(name: str) -> dict[str, object]:
    """A row of ``servers`` that works and of which nothing more is known; times in seconds."""
    return {
        "server": name, "state": "up", "retry": None, "answers": 0, "failures": 0, "latency": None,
    }  # fmt: skip


Row = Mapping[str, Any]


def merged_servers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a server, made of what each worker knows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["server"], []).append(row)
    return [_merged(name, found[name]) for name in sorted(found)]


def _merged(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    states = [row["state"] for row in rows]
    answers = sum(row["answers"] for row in rows)
    retries = [row["retry"] for row in rows if row["retry"] is not None]
    weighed = sum(row["answers"] * row["latency"] for row in rows if row["answers"])
    down = sum(state in ("down", "slow") for state in states)
    state = "up" if not down else states[0] if down == len(rows) else "partly down"
    if "drained" in states:
        state = "drained"
    return {
        "server": name,
        "state": state,
        "retry": min(retries, default=None),
        "sessions": sum(row["sessions"] for row in rows),
        "answers": answers,
        "failures": sum(row["failures"] for row in rows),
        "latency": weighed / answers if answers else None,
    }
