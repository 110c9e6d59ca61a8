"""One timer a worker: every second it asks those whose time has come, and only those.

Waiting things are kept by the second at which they are due, so a tick costs what is due, not what
is held. Invariant: a thing is in at most one slot, the one that its `slot` attribute names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from perdition.session.service import Due, Slot


class Sweep:
    """The deadlines of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, each_second: Callable[[], None]) -> None:
        self.loop = loop
        self.now = int(time.monotonic())  # coarse time for all that need no better
        self.each_second = each_second
        self._slots: dict[int, Slot] = {}
        self._last = self.now

    def start(self) -> None:
        """Tick from now on."""
        self.loop.call_later(1, self._tick)

    def by(self, thing: Due, second: int) -> None:
        """Ask `thing` at `second`, unless it is asked earlier anyway and can say when again."""
        at = thing.slot
        if at is not None:
            if at.second <= second:
                return
            del at[thing]
        if second <= self._last:
            second = self._last + 1
        slot = self._slots.get(second)
        if slot is None:
            slot = self._slots[second] = Slot(second)
        thing.slot = slot
        slot[thing] = None

    def forget(self, thing: Due) -> None:
        """Ask `thing` no more."""
        at = thing.slot
        if at is not None:
            thing.slot = None
            del at[thing]

    def _tick(self) -> None:
        self.loop.call_later(1, self._tick)
        now = self.now = int(time.monotonic())
        self.each_second()
        for second in range(self._last + 1, now + 1):
            self._last = second
            if slot := self._slots.pop(second, None):
                self._ask(slot, now)

    def _ask(self, slot: Slot, now: int) -> None:
        try:
            while slot:
                thing, _ = slot.popitem()
                thing.slot = None
                again = thing.due(now)
                if again:
                    self.by(thing, again)
        finally:  # one that failed; the others are asked a second later
            for thing in slot:
                thing.slot = None
                self.by(thing, now + 1)
