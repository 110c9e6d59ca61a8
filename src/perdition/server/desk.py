"""The master's desk: who may ask it something, and how they get their answer.

A request on the control socket is one line, a JSON object ``{"verb": ..., ...}``. An answer is
lines of JSON objects: rows of workers, then one with ``"end"``, or ``"error"``. The verbs are in
`verbs`; metrics in `exposition`. It is served between signals, from `Master`'s own loop.
Invariant: nothing here waits, and a fault costs one answer.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from perdition.config import Config
from perdition.errors import StartError
from perdition.server import scrape
from perdition.server.callers import Caller, Callers
from perdition.server.doors import Door, control_door, metrics_door
from perdition.server.ears import Ears
from perdition.server.exposition import TYPE, exposition
from perdition.server.questions import MESSAGE, Questions, Worker
from perdition.server.verbs import VERBS, Refusal
from perdition.session.health import merged_servers

if TYPE_CHECKING:
    from perdition.server.generation import Child
    from perdition.server.master import Master

_Kind = tuple[Callable[[Config], Door | None], bytes, Callable[[Caller, bytes], None]]


class Desk:
    """See the module; `due` is when to call `tick` next, in monotonic seconds."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self.questions = Questions()
        self._ears = Ears()
        self._parting: list[Callers] = []  # of doors that are closed
        self._doors: dict[str, tuple[str, Door, Callers]] = {}  # option -> setting, ...
        # Option -> how it opens, how a request ends, and who answers it.
        self._kinds: dict[str, _Kind] = {
            "control_socket": (self._control_door, b"\n", self._requested),
            "metrics_listen": (metrics_door, scrape.END, self._scraped),
        }

    # -- the doors --------------------------------------------------------------------------

    def open(self, config: Config) -> None:
        """Open the doors that `config` asks for, close others; StartError leaves all as it was.

        The default control socket, which nobody asked for, may be impossible: then that is logged.
        """
        opened: dict[str, Door | None] = {}
        try:
            for option, (open_door, _, _) in self._kinds.items():
                kept = self._doors.get(option)
                if kept is None or kept[0] != getattr(config, option):
                    opened[option] = open_door(config)
        except StartError:
            for door in opened.values():
                if door is not None:
                    door.remove()
                    door.sock.close()
            raise
        for option, door in opened.items():
            self._replace(option, getattr(config, option), door)

    def _control_door(self, config: Config) -> Door | None:
        try:
            return control_door(config)
        except StartError as error:
            if config.control_socket:
                raise
            self.master.log.info(f"perditionctl can't reach this daemon: {error}")
            return None

    def _replace(self, option: str, setting: str, door: Door | None) -> None:
        if option in self._doors:
            _, old, callers = self._doors.pop(option)
            old.remove()
            callers.close()
            self._parting.append(callers)
        if door is not None:
            _, end, asked = self._kinds[option]
            self._doors[option] = setting, door, Callers(self._ears, door.sock, end, asked)

    def handed_over(self, keep: Callable[[int], int]) -> dict[str, tuple[str, str, int]]:
        """The doors, for a successor of this process; `keep` is told each descriptor."""
        return {
            option: (setting, door.path, keep(door.sock.fileno()))
            for option, (setting, door, _) in self._doors.items()
        }

    def adopt(self, doors: Mapping[str, tuple[str, str, int]]) -> None:
        """Take over the doors that a predecessor has handed over."""
        for option, (setting, path, fd) in doors.items():
            if option in self._kinds:
                self._replace(option, setting, Door(socket.socket(fileno=fd), path))

    def close(self) -> None:
        """Close all doors and take their files away."""
        for option in list(self._doors):
            self._replace(option, "", None)

    def leave(self) -> None:
        """In a child: close what only the master serves, and touch no file."""
        for callers in self._callers():
            callers.leave()
        self._doors.clear()

    # -- workers ----------------------------------------------------------------------------

    def meet(self, child: Child) -> None:
        """Hear what a worker says from now on."""
        self._ears.watch(child.control, lambda: self._worker_said(child))

    def part(self, child: Child) -> None:
        """The worker has ended; what it said last counts."""
        while self._worker_said(child):
            pass
        self._ears.forget(child.control)
        self.questions.lost(child)

    def _worker_said(self, child: Child) -> bool:
        """Hear one message; False: there is none."""
        try:
            message = child.control.recv(MESSAGE, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            message = b""
        if not message:
            self._ears.forget(child.control)  # it ends: SIGCHLD says the rest
            return False
        if message == b"ready":
            child.ready = True
        elif message.startswith(b"error "):
            text = message[6:].decode("utf-8", "backslashreplace")
            self.master.log.err(f"worker {child.number + 1} can't start: {text}")
        else:
            self.questions.heard(child, message)
        return True

    def ask_workers(
        self, caller: Caller, verb: str, words: dict[str, object], part: Callable[[bytes], None],
        done: Callable[[Sequence[Worker]], None], *, fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Ask the workers of all generations for `caller`; see `Questions.ask`."""
        self.questions.ask(
            self.master.children(), verb, words,
            lambda data: self._guarded(caller, part, data),
            lambda late: self._guarded(caller, done, late), fds=fds,
        )  # fmt: skip

    # -- between signals --------------------------------------------------------------------

    @property
    def due(self) -> float:
        if self._ears.busy:
            return 0.0
        return min((self.questions.due, *(callers.due for callers in self._callers())))

    def _callers(self) -> list[Callers]:
        self._parting = [callers for callers in self._parting if callers.here]
        return [*self._parting, *(callers for _, _, callers in self._doors.values())]

    def tick(self, now: float) -> None:
        """Serve all that is ready, and give up on what is late; call it after every signal."""
        self._ears.hear()
        self.questions.tick(now)
        for callers in self._callers():
            callers.tick(now)

    # -- requests ---------------------------------------------------------------------------

    def _requested(self, caller: Caller, line: bytes) -> None:
        """Answer one request of the control socket."""
        self._guarded(caller, self._carry_out, caller, line)

    def _guarded(self, caller: Caller, call: Callable[..., None], *given: object) -> None:
        try:
            call(*given)
        except Exception as error:  # one of five doors: a fault costs one answer
            self.master.log.fault("desk", error)
            caller.close()

    def _carry_out(self, caller: Caller, line: bytes) -> None:
        try:
            words = json.loads(line)
            if not isinstance(words, dict) or not isinstance(words.get("verb"), str):
                raise Refusal('a request is one JSON object with a "verb"')
            verb = VERBS.get(words.pop("verb"))
            if verb is None:
                raise Refusal(f"no such verb; there are {', '.join(VERBS)}")
            verb(self, caller, words)
        except (ValueError, RecursionError) as error:
            self.finish(caller, error=f"the request is no JSON: {error}")
        except Refusal as error:
            self.finish(caller, error=str(error))

    def _scraped(self, caller: Caller, request: bytes) -> None:
        """Answer one request for metrics."""
        status = scrape.status_of(request)
        if status is not HTTPStatus.OK:
            text = f"{status.phrase}: there is GET /metrics\n"
            caller.say(scrape.response(request, status, "text/plain", text), last=True)
            return
        rows: list[dict[str, Any]] = []

        def part(data: bytes) -> None:
            rows.extend(json.loads(data)["rows"])

        def done(late: Sequence[Worker]) -> None:
            text = exposition(self.master, merged_servers(rows), len(late))
            caller.say(scrape.response(request, status, TYPE, text), last=True)

        self.ask_workers(caller, "servers", {}, part, done)

    def say(self, caller: Caller, **row: object) -> None:
        """Send one object of an answer."""
        caller.say(json.dumps(row).encode() + b"\n")

    def finish(self, caller: Caller, late: Sequence[Worker] = (), **end: object) -> None:
        """Send the last object of an answer; `late`: workers that gave none."""
        row = {
            "end": True, "ident": self.master.config.basename, "pid": os.getpid(),
            "late": sorted(worker.pid for worker in late), **end,
        }  # fmt: skip
        caller.say(json.dumps(row).encode() + b"\n", last=True)
