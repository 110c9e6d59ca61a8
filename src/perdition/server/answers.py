"""What a worker answers the master: one generator a verb, advanced a little at a time.

A generator gives rows, or None after work that gave none, so that logins get their turn between.
Messages are those of `questions`. Invariant: a question is read only when its turn comes, none
takes the loop for longer than a few milliseconds, and nothing waits.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from perdition.route import Server
from perdition.session.health import is_meant, row_of_server
from perdition.session.login import Session
from perdition.session.poller import Poller
from perdition.session.service import Service
from perdition.session.sight import matches, sight

Row = dict[str, object]
Verb = Callable[["Answers", dict[str, Any]], Iterator[Row | None]]
_STEPS = 200  # of a generator until others get their turn
_PART = 24_576  # bytes of rows that make a message
_QUESTIONS = 16  # that wait; the master asks fewer at once
KICKED = "Session ended by the administrator"


class Answers:
    """The worker's side of the desk; `sessions` are the worker's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller, control: socket.socket,
        service: Service, sessions: Collection[Session], *, number: int,
    ) -> None:  # fmt: skip
        self.service = service
        self.sessions = sessions
        self.number = number
        self.fds: list[int] = []  # that came with the question
        self._loop = loop
        self._poller = poller
        self._control = control
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._id = b""
        self._under_way: Iterator[Row | None] | None = None
        self._unsent: list[bytes] = []  # messages that the socket did not take yet

    def ask(self, rest: bytes, fds: list[int]) -> None:
        """Take a question: ``NUMBER JSON``."""
        if len(self._waiting) >= _QUESTIONS:
            for fd in fds:
                os.close(fd)
            return
        self._waiting.append((rest, fds))
        if self._under_way is None and len(self._waiting) == 1 and not self._unsent:
            self._loop.call_soon(self._go_on)

    def _next(self) -> bool:
        """Start on the next question; False: there is none."""
        if not self._waiting:
            return False
        question, self.fds = self._waiting.popleft()
        self._id, _, body = question.partition(b" ")
        words = json.loads(body)
        # The master may be of a newer version, which asks what we know nothing of.
        self._under_way = VERBS.get(words.pop("verb"), Answers._ping)(self, words)
        return True

    def _go_on(self) -> None:
        if self._under_way is None and not self._next():
            return
        assert self._under_way is not None
        rows: list[str] = []
        done = True  # also when a fault of ours ends it, which the loop's handler logs
        try:
            done = self._advance(self._under_way, rows)
        finally:
            if done:
                self._under_way = None
                for fd in self.fds:
                    os.close(fd)
            self._send(rows, done)

    def _advance(self, under_way: Iterator[Row | None], rows: list[str]) -> bool:
        """Fill `rows` with a message's worth; True: that was all."""
        size = 0
        for _ in range(_STEPS):
            try:
                row = next(under_way)
            except StopIteration:
                return True
            if row is not None:
                rows.append(json.dumps(row))
                size += len(rows[-1])
                if size > _PART:
                    break
        return False

    def _send(self, rows: list[str], done: bool) -> None:
        messages = []
        if rows:
            worker = f'{{"worker": {self.number + 1}, "pid": {os.getpid()}, "rows": '
            body = f"{worker}[{', '.join(rows)}]}}"
            messages.append(b"part %b %b" % (self._id, body.encode()))
        if done:
            messages.append(b"done %b" % self._id)
        self._unsent = messages
        self._send_on()

    def _send_on(self) -> None:
        while self._unsent:
            try:
                self._control.send(self._unsent[0])
            except BlockingIOError:
                self._poller.add_writer(self._control.fileno(), self._writable)
                return
            except OSError:
                return  # the master is gone, and with it who asked
            del self._unsent[0]
        if self._under_way is not None or self._waiting:
            self._loop.call_soon(self._go_on)

    def _writable(self) -> None:
        self._poller.remove_writer(self._control.fileno())
        self._send_on()

    # -- verbs ------------------------------------------------------------------------------

    def _ping(self, words: dict[str, Any]) -> Iterator[Row | None]:
        yield None

    def _who(self, words: dict[str, Any]) -> Iterator[Row | None]:
        room = words["limit"]
        for session in list(self.sessions):
            if session.over or not matches(session, words["match"]):
                yield None
            elif room:
                room -= 1
                yield sight(session)
            else:
                yield {"more": True}
                return

    def _kick(self, words: dict[str, Any]) -> Iterator[Row | None]:
        for session in list(self.sessions):
            if session.over or not matches(session, words["match"]):
                yield None
                continue
            row = sight(session)
            session.abort(KICKED)
            yield row

    def _servers(self, words: dict[str, Any]) -> Iterator[Row | None]:
        there: Counter[str] = Counter()
        for session in list(self.sessions):
            if session.at is not None:
                there[str(session.at)] += 1
            yield None
        for row in self.service.health.rows():
            row["sessions"] = there.pop(str(row["server"]), 0)
            yield row
        for server, count in there.items():  # of which more than is remembered are known
            yield {**row_of_server(server), "sessions": count}

    def _drained(self, words: dict[str, Any]) -> Iterator[Row | None]:
        health, server = self.service.health, Server(*words["server"])
        health.drained = frozenset(Server(*each) for each in words["servers"])
        there = 0
        for session in list(self.sessions):
            there += session.at is not None and is_meant(server, session.at)
            yield None
        yield {"known": health.knows(server), "sessions": there}

    def _flush(self, words: dict[str, Any]) -> Iterator[Row | None]:
        yield {"flushed": self.service.routing.flush(words["user"].encode())}

    def _log_level(self, words: dict[str, Any]) -> Iterator[Row | None]:
        self.service.log.set_level(words["level"])
        yield None

    def _trace(self, words: dict[str, Any]) -> Iterator[Row | None]:
        if self.fds:
            self.service.traces.add(words["user"], self.fds[0], words["until"])
        else:
            self.service.traces.remove(words["user"])
        yield None


VERBS: dict[str, Verb] = {
    "ping": Answers._ping,
    "who": Answers._who,
    "kick": Answers._kick,
    "servers": Answers._servers,
    "drained": Answers._drained,
    "flush": Answers._flush,
    "log_level": Answers._log_level,
    "trace": Answers._trace,
}
