"""Answers of a map, kept: fresh for a while, and stale for longer should the map be down.

Invariant: never more than `size` answers; the one kept longest goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from perdition.route import Route


class Lifetimes(NamedTuple):
    """Seconds; 0 keeps nothing."""

    found: float = 0.0  # an answer is given again without asking
    missing: float = 0.0  # the same of "no such user"
    stale: float = 0.0  # an answer is given again when the map can't tell


class Answer(NamedTuple):
    """One answer of a map, None for a user that it does not know."""

    route: Route | None
    fresh_until: float
    stale_until: float


class Cache:
    """See the module; `clock` gives seconds that never go back."""

    def __init__(self, lifetimes: Lifetimes, size: int, clock: Callable[[], float]) -> None:
        self.lifetimes = lifetimes
        self.size = size
        self._clock = clock
        self._answers: dict[Hashable, Answer] = {}

    def fresh(self, key: Hashable) -> Answer | None:
        """The answer to `key` if it may be given without asking."""
        answer = self._answers.get(key)
        return answer if answer is not None and answer.fresh_until > self._clock() else None

    def stale(self, key: Hashable) -> Answer | None:
        """The last answer to `key` if it may stand in for a map that is down."""
        answer = self._answers.get(key)
        return answer if answer is not None and answer.stale_until > self._clock() else None

    def keep(self, key: Hashable, route: Route | None) -> None:
        """Remember what the map said."""
        now, lives = self._clock(), self.lifetimes
        self._answers.pop(key, None)
        found = route is not None
        fresh = lives.found if found else lives.missing
        if not self.size or not (fresh or (found and lives.stale)):
            return
        if len(self._answers) >= self.size:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = Answer(route, now + fresh, now + lives.stale if found else 0.0)

    def flush(self, which: Callable[[Hashable], bool]) -> int:
        """Forget the answers to the keys that `which` names; return how many."""
        gone = [key for key in self._answers if which(key)]
        for key in gone:
            del self._answers[key]
        return len(gone)
