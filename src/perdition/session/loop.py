"""The loop of a worker: asyncio's, which waits where the sessions' sockets are watched.

The sockets are served by their `Poller` as long as nothing else is to be done; asyncio has its turn
when a task, a timer or a driver of a map needs it, and costs nothing otherwise. What asyncio itself
watches is one descriptor among the sockets: its selector's. A round trip costs a tenth less than
with a loop that in its turn watches the poller (uvloop), and there is one dependency less.
Invariant: whatever gives asyncio something to do ends the poller's wait.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from functools import partial
from typing import Any

from perdition.session.poller import Poller
from perdition.session.quick import Quick
from perdition.session.relay import Flow
from perdition.session.side import Side
from perdition.session.stepped import Stepped


def session_of(call: Callable[[], None]) -> Stepped | None:
    """Whose end it is if this callback fails; None: nobody's."""
    while (inner := getattr(call, "func", None)) is not None:
        call = inner
    owner: object = getattr(call, "__self__", call)
    if isinstance(owner, Side):
        owner = getattr(owner.on_event, "__self__", None)
    elif isinstance(owner, Flow):
        owner = getattr(getattr(owner, "relay", None), "owner", None)
    elif not isinstance(owner, Quick):
        return None  # a session's own `fault`, too
    if isinstance(owner, Quick):
        owner = owner.session
    return owner if isinstance(owner, Stepped) else None


class _Selector(selectors.EpollSelector):
    """asyncio's own, asked only when there is something in it."""

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self._poller = poller
        poller.add_reader(self.fileno(), poller.leave)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._poller.wait(timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """`after` is the `Poller`'s; `failed` hears of faults that cost no session."""

    def __init__(
        self, *, failed: Callable[[Exception], None], after: Callable[[bool], None]
    ) -> None:
        self.poller = Poller(failed=self._failed, after=after)
        self._tell = failed
        super().__init__(_Selector(self.poller))

    def _failed(self, error: Exception, call: Callable[[], None]) -> None:
        session = session_of(call)
        if session is None:
            self._tell(error)
        else:
            self.poller.later(partial(session.fault, error))

    def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self.poller.leave()
        return super().call_soon(*args, **options)

    def call_at(self, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.poller.leave()
        return super().call_at(*args, **options)

    def stop(self) -> None:
        self.poller.leave()
        super().stop()

    def close(self) -> None:
        super().close()
        self.poller.close()
