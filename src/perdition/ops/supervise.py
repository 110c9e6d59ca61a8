"""Several daemons in the foreground as one service, for a service manager such as systemd.

Each daemon is told by sd_notify(3) to a socket of ours that it is up; when all are, we say so to
whoever asked us. Signals are passed on, a daemon that dies is started again, one that ends of its
own accord is not. Nothing is read from the network. Once a daemon has been upgraded we execute the
installed program in our place, too: the daemons stay its children.
Invariant: no daemon outlives `supervise`, unless it is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from perdition.notify import UPGRADED, notify, notify_reloading

PAUSE = 1.0  # seconds before a daemon that died is started again; doubled while it does not come up
LONGEST_PAUSE = 30.0

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_SIGNALS = (*_ENDS, signal.SIGHUP, signal.SIGCHLD)
_HANDOVER = "PERDITION_SUPERVISOR"  # in the environment: what a successor has to know, as JSON
_FORMAT = 1  # of that
_TRIAL = 20.0  # seconds that the program may take to say its help
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7)


class _Process(Protocol):
    """A child, as subprocess.Popen has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...


class _Inherited:
    """A child of the program that ran here before."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = -1
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@dataclass(slots=True, eq=False)
class _Ward:
    """One daemon in our care."""

    command: str
    words: Sequence[str]
    process: _Process | None = None
    ready: bool = False
    outdated: bool = False  # it began with a configuration that has changed since
    pause: float = PAUSE
    due: float = 0.0  # monotonic: when to start it again


def supervise(
    daemons: Mapping[str, Sequence[str]], environment: Mapping[str, str], *, tolerant: bool = False
) -> int:
    """Run the daemons (command -> program and words) until all have ended.

    Returns 0, or 1 when one of them could not start; then the others are stopped. If `tolerant`
    they are not, and it is 1 when none could start.
    """
    wards = [_Ward(command, words) for command, words in daemons.items()]
    ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ears.bind("")  # the kernel finds an abstract name, as in unix(7)
    return _Supervisor(wards, environment, ears, tolerant=tolerant).run()


def go_on() -> int | None:
    """Go on with the daemons of the program that ran here before us; None if there was none."""
    text = os.environ.pop(_HANDOVER, "")
    if not text:
        return None
    state = json.loads(text)
    wards = []
    for command, words, pid, ready in state["wards"]:
        wards.append(_Ward(command, words, _Inherited(pid) if pid else None, ready))
    ears = socket.socket(fileno=state["ears"])
    supervisor = _Supervisor(wards, state["environment"], ears, tolerant=False)
    supervisor.up = True
    return supervisor.run()


class _Supervisor:
    def __init__(
        self,
        wards: list[_Ward],
        environment: Mapping[str, str],
        ears: socket.socket,
        *,
        tolerant: bool,
    ) -> None:
        self._wards = wards
        self._ears = ears
        self._ears.setblocking(False)
        self._ears.set_inheritable(False)
        self._ears.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        name = self._ears.getsockname()[1:].decode("ascii")
        self._environment = {**environment, "NOTIFY_SOCKET": f"@{name}"}
        self._tolerant = tolerant
        self._left_aside: list[str] = []  # commands that could not start
        self.up = False  # all have been ready once
        self._outdated = False  # a daemon is of a newer version than we are
        self._stopping = False
        self._reloading: set[str] = set()  # commands that have not said READY since
        self._status = 0

    def run(self) -> int:
        wake, wakes = socket.socketpair()
        with wake, wakes, self._ears:
            wake.setblocking(False)
            wakes.setblocking(False)
            signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
            for number in _SIGNALS:
                signal.signal(number, lambda *_: None)  # the number comes through the descriptor
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # a predecessor has blocked them
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            poll.register(self._ears, select.POLLIN)
            while self._wards:
                self._start_due()
                poll.poll(self._patience())
                self._hear()
                self._obey(wake)
                self._bury()
                if self._outdated:
                    self._become_the_next(wake)
            signal.set_wakeup_fd(-1)
        return self._status

    def _patience(self) -> float | None:
        """Milliseconds until a daemon is due."""
        waits = [ward.due for ward in self._wards if ward.process is None]
        return max(0.0, min(waits) - time.monotonic()) * 1000 if waits else None

    def _start_due(self) -> None:
        for ward in self._wards:
            if ward.process is None and ward.due <= time.monotonic() and not self._stopping:
                try:
                    ward.process = subprocess.Popen(
                        ward.words, stdin=subprocess.DEVNULL, env=self._environment
                    )
                except OSError as error:
                    self._lost(ward, error.strerror or str(error))
        self._forget()

    # -- what daemons say -------------------------------------------------------------------

    def _hear(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._ears.recvmsg(
                    4096, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            # Anybody on this host may write to the socket: only the daemons themselves count.
            pids = [_CREDENTIALS.unpack(part)[0] for _, _, part in ancillary]
            if b"READY=1" in data.split(b"\n"):
                for ward in self._wards:
                    if ward.process is not None and ward.process.pid in pids:
                        self._is_ready(ward)
                        self._outdated |= UPGRADED.encode() in data.split(b"\n")

    def _is_ready(self, ward: _Ward) -> None:
        ward.ready = True
        ward.pause = PAUSE
        self._reloading.discard(ward.command)
        self.up = self.up or all(other.ready for other in self._wards)
        self._report()
        if ward.outdated and not self._stopping:
            self._have_reloaded([ward])

    def _report(self) -> None:
        if self._stopping or not self.up:
            return
        states = [f"{w.command} {'up' if w.ready else 'down'}" for w in self._wards]
        states += [f"{command} could not start" for command in self._left_aside]
        ready = () if self._reloading else ("READY=1",)
        notify(*ready, f"STATUS={', '.join(states)}")

    # -- what we are told -------------------------------------------------------------------

    def _obey(self, wake: socket.socket) -> None:
        try:
            numbers = wake.recv(64)
        except BlockingIOError:
            return
        for number in numbers:
            if number in _ENDS:
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()

    def _stop(self) -> None:
        notify("STOPPING=1")
        self._stopping = True
        for ward in self._wards:
            if ward.process is not None:
                ward.process.send_signal(signal.SIGTERM)
        self._forget()

    def _reload(self) -> None:
        for ward in self._wards:
            # One that is not up yet may have read its configuration and have no handler for the
            # signal, which would end it: it is told as soon as it is up.
            ward.outdated = ward.process is not None
        ready = [ward for ward in self._wards if ward.ready]
        if ready and not self._stopping:
            self._have_reloaded(ready)

    def _have_reloaded(self, wards: Sequence[_Ward]) -> None:
        notify_reloading()
        for ward in wards:
            ward.outdated = False
            self._reloading.add(ward.command)
            if ward.process is not None:
                ward.process.send_signal(signal.SIGHUP)

    # -- upgrade ----------------------------------------------------------------------------

    def _become_the_next(self, wake: socket.socket) -> None:
        """Execute the installed program in our place, if it is any good."""
        self._outdated = False
        # From here on a signal waits for our successor; of those before we take care.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._obey(wake)
        try:
            if self._stopping or self._reloading or not all(ward.ready for ward in self._wards):
                return  # what is under way is worth more; there will be another upgrade
            subprocess.run(
                [sys.argv[0], "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                timeout=_TRIAL, check=True,
            )  # fmt: skip
            self._ears.set_inheritable(True)
            state = {
                "format": _FORMAT,
                "ears": self._ears.fileno(),
                "environment": self._environment,
                "wards": [
                    (w.command, list(w.words), w.process.pid if w.process else 0, w.ready)
                    for w in self._wards
                ],
            }
            os.execve(sys.argv[0], sys.argv, {**os.environ, _HANDOVER: json.dumps(state)})
        except (OSError, subprocess.SubprocessError) as error:
            _say(f"the installed version is no good: {error}; going on as we are")
        finally:
            self._ears.set_inheritable(False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    # -- what ends --------------------------------------------------------------------------

    def _bury(self) -> None:
        for ward in self._wards:
            if ward.process is not None and (code := ward.process.poll()) is not None:
                ward.process = None
                self._lost(ward, f"signal {-code}" if code < 0 else f"exit status {code}", code)
        self._forget()

    def _lost(self, ward: _Ward, how: str, code: int = -1) -> None:
        was_ready, ward.ready, ward.outdated = ward.ready, False, False
        self._reloading.discard(ward.command)
        if self._stopping:
            return
        if not self.up:
            _say(f"{ward.command} could not start: {how}")
            if self._tolerant:
                self._leave_aside(ward)
            else:
                self._status = 1
                self._stop()
        elif was_ready and code == 0:
            _say(f"{ward.command} has ended as it was told to")
            ward.due = float("inf")
        else:
            _say(f"{ward.command} is down: {how}; starting it again in {ward.pause:g} s")
            ward.due = time.monotonic() + ward.pause
            ward.pause = min(LONGEST_PAUSE, ward.pause * 2)
        self._report()

    def _leave_aside(self, ward: _Ward) -> None:
        ward.due = float("inf")
        self._left_aside.append(ward.command)
        others = [other for other in self._wards if other.due != float("inf")]
        self._status = int(not others)
        self.up = bool(others) and all(other.ready for other in others)

    def _forget(self) -> None:
        """Drop those that will not be started again."""
        self._wards = [
            ward
            for ward in self._wards
            if ward.process is not None or not (self._stopping or ward.due == float("inf"))
        ]


def _say(text: str) -> None:
    print(f"perdition-service: {text}", file=sys.stderr, flush=True)
