"""What the master asks its workers: one message out, parts of an answer in, within a deadline.

A worker that hangs or starts gives no answer, and whoever asked is told which. One that has ended
has nothing to say: its sessions are gone, and its successor starts with what the master knows.
Messages: ``ask NUMBER JSON`` there; ``part NUMBER JSON`` and ``done NUMBER`` back.
Invariant: every question is done exactly once, at its deadline at the latest.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

DEADLINE = 2.0  # seconds
MESSAGE = 65_536  # bytes; no message is longer
UNANSWERED = 8  # questions to one worker; one that has not answered so many is asked nothing more


class Worker(Protocol):
    """A worker as a question sees it."""

    pid: int
    control: socket.socket
    ready: bool
    unanswered: int


@dataclass(slots=True, eq=False)
class _Question:
    waiting: list[Worker]
    late: list[Worker]
    due: float
    part: Callable[[bytes], None]
    done: Callable[[Sequence[Worker]], None]


class Questions:
    """All that are open; `due` is when to call `tick` next, in monotonic seconds."""

    def __init__(self) -> None:
        self._open: dict[int, _Question] = {}
        self.number = 0  # of the last one; a successor of this process goes on from it

    def ask(
        self, workers: Iterable[Worker], verb: str, words: Mapping[str, object],
        part: Callable[[bytes], None], done: Callable[[Sequence[Worker]], None],
        *, fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Ask all; `part` gets each part of an answer, `done` those who did not answer."""
        self.number += 1
        question = _Question([], [], time.monotonic() + DEADLINE, part, done)
        message = b"ask %d %b" % (self.number, json.dumps({"verb": verb, **words}).encode())
        for worker in workers:
            try:
                if not worker.ready or worker.unanswered >= UNANSWERED:
                    raise BlockingIOError
                socket.send_fds(worker.control, [message], fds, socket.MSG_DONTWAIT)
            except BlockingIOError:
                question.late.append(worker)
            except OSError:
                pass  # it has ended
            else:
                worker.unanswered += 1
                question.waiting.append(worker)
        self._open[self.number] = question
        self._finish_if_answered(self.number)

    def heard(self, worker: Worker, message: bytes) -> None:
        """Take what a worker says; anything that is no answer is let pass."""
        word, _, rest = message.partition(b" ")
        digits, _, body = rest.partition(b" ")
        number = int(digits) if digits.isdigit() and len(digits) < 20 else 0
        if word == b"done":
            worker.unanswered = max(0, worker.unanswered - 1)
        question = self._open.get(number)
        if question is None or worker not in question.waiting:
            return
        if word == b"part" and b"\n" not in body:
            question.part(body)
        elif word == b"done":
            question.waiting.remove(worker)
            self._finish_if_answered(number)

    def lost(self, worker: Worker) -> None:
        """The worker has ended."""
        for number, question in list(self._open.items()):
            if worker in question.waiting:
                question.waiting.remove(worker)
                self._finish_if_answered(number)

    def _finish_if_answered(self, number: int) -> None:
        question = self._open[number]
        if not question.waiting:
            del self._open[number]
            question.done(question.late)

    @property
    def due(self) -> float:
        return min((question.due for question in self._open.values()), default=float("inf"))

    def tick(self, now: float) -> None:
        """Give up on what nobody has answered in time."""
        for number, question in list(self._open.items()):
            if question.due <= now:
                del self._open[number]
                question.done([*question.late, *question.waiting])
