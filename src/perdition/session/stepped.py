"""A dialogue that is stepped by what happens, and the deadlines it runs against.

The dialogue is a coroutine that readiness callbacks step themselves with `send`: there is no task
and no future unless a step has to wait for a driver, such as the resolver. What it says is in
`login`; here is only what moves it.
The sweep asks at least every `soonest` seconds, so that a deadline can be set without telling it.
Invariant: a dialogue that has ended is never stepped again, and asks the sweep for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from enum import IntEnum
from functools import partial
from types import coroutine
from typing import Any, TypeVar

from perdition.errors import DeadlineExpired, PeerGone, PerditionError, WireError
from perdition.session.service import Service, Slot

T = TypeVar("T")


@coroutine
def next_step() -> Generator[None, Any, Any]:
    """Awaited, gives what the dialogue is stepped with next."""
    return (yield)


# Seconds that an address may take to connect when the server has another (RFC 8305, section 5).
# Those that were slow are tried again behind the others, with a little more, the last of them with
# all its time. The one that answers is tried first from then on.
NEXT_ADDRESS, NEXT_AGAIN = 0.25, 1.0


class Step(IntEnum):
    """What a server has to do, each in its time."""

    CONNECT = 0
    GREETING = 1
    LOGIN = 2


CONNECT = Step.CONNECT  # for every session begins with it


class ServerLost(Exception):
    """The server's side of the login ended; `error` says how."""

    def __init__(self, error: PerditionError) -> None:
        super().__init__(str(error))
        self.error = error


class Stepped:
    """The mover of one dialogue; who inherits writes the dialogue, and how it ends."""

    __slots__ = ("_coro", "_step", "_timed_out", "_tried", "service", "since", "slot")

    _step: Step  # of the server that is tried,
    _timed_out: bool  # and whether it let us wait until a deadline

    def __init__(self, service: Service) -> None:
        sweep, timeouts = service.sweep, service.timeouts
        self.service = service
        self.slot: Slot | None = None  # the sweep's
        self.since = now = sweep.now
        self._coro: Coroutine[Any, Any, None] | None = None
        self._tried = 0  # sweep's second since when a server is tried; 0: none is
        sweep.by(self, now + timeouts.soonest)

    @property
    def _login_due(self) -> int:
        """The sweep's second by which the client must be in; 0: it has all the time."""
        limit = self.service.timeouts.authenticate
        return self.since + limit + 1 if limit else 0

    @property
    def _step_due(self) -> int:
        """The sweep's second by which the server must have done its step; 0: none is tried."""
        tried = self._tried
        return tried + self.service.timeouts.server[self._step] + 1 if tried else 0

    def _ended_by(self, error: PerditionError) -> None:
        """End because of what a peer did, or because of a deadline."""
        raise AssertionError

    def _crashed(self) -> None:
        """End after a fault of ours, which is logged already."""
        raise AssertionError

    def _attempt(self) -> object:
        """The connection that is tried now."""
        return None

    def _step_reached(self) -> Step:
        """What the server has to do next, when the time for an earlier step is over."""
        return self._step

    def step(self, event: object, fault: Exception | None = None) -> None:
        """Go on with `event`; a `fault` is thrown into the dialogue where it waits."""
        coro = self._coro
        if coro is None:
            return
        try:
            if fault is None:
                coro.send(event)
            else:
                coro.throw(fault)
        except StopIteration:
            self._coro = None
        except (PeerGone, WireError, DeadlineExpired) as error:
            self._coro = None
            self._ended_by(error.with_traceback(None))  # which would be a cycle with this frame
        except Exception as error:  # one of five doors: a fault of ours costs one session
            self.fault(error)

    def fault(self, error: Exception) -> None:
        """End after a fault of ours."""
        self._coro = None
        self.service.log.fault("session", error)
        self._crashed()

    def due(self, now: int) -> int:
        """Act on the deadline that has come; the sweep's question."""
        if self._coro is None:
            return 0
        if self._login_due and now >= self._login_due:
            self.step(None, DeadlineExpired("authenticate_timeout"))
        elif self._step_due and now >= self._step_due:
            reached = self._step_reached()
            if reached > self._step:
                self._step = reached  # which has its time from the start, too
            else:
                self._tried = 0
                name = f"{self._step.name.lower()}_timeout"
                self.step(None, ServerLost(DeadlineExpired(name)))
        return 0 if self._coro is None else self._ask_again(now)

    def _deadline(self) -> int:
        """The sweep's second of the next one; 0: there is none."""
        login, step = self._login_due, self._step_due
        return min(login, step) if login and step else login or step

    def _ask_again(self, now: int) -> int:
        """When to be asked next; what begins meanwhile has its time until then at least."""
        latest = now + self.service.timeouts.soonest
        return min(self._deadline() or latest, latest)

    def _expect_connection(self, patience: float) -> None:
        """The server has to connect in time; after `patience`, in seconds, another address may."""
        if patience:  # from the moment when it begins to connect
            self.service.poller.later(partial(self._be_patient, patience, self._attempt()))
        self._step = CONNECT
        self._tried = self.service.sweep.now

    def _be_patient(self, seconds: float, attempt: object) -> None:
        self.service.loop.call_later(seconds, self._try_next, attempt)

    def _try_next(self, attempt: object) -> None:
        """An address was given its time; go on unless it has answered, or another is tried."""
        if attempt is self._attempt() and self._step_reached() is self._step is Step.CONNECT:
            self._tried = 0
            self.step(None, ServerLost(DeadlineExpired("connect_timeout")))

    async def _driver(self, awaitable: Awaitable[T]) -> T:
        """Wait for something that needs the loop's own tasks."""
        task = self.service.loop.create_task(_coroutine(awaitable))
        task.add_done_callback(self._driven)
        try:
            await next_step()
            return task.result()
        finally:
            task.cancel()

    def _driven(self, task: object) -> None:
        self.step(None)


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
