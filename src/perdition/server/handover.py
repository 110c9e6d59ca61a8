"""A daemon that becomes a newer version of itself: `perditionctl upgrade`.

The master rehearses first: it starts the installed program as a child, with copies of all
descriptors, which reads the configuration, makes everything and forks workers without sockets; if
they come up, the program is good. Then the master executes it in its own place. Its number stays,
and with it the pid file, the service manager's idea of it, and its children: the workers of the
old version take clients until those of the new one do, and then live until their sessions end.
What the successor has to know is JSON in a memory file whose number is in the environment.
Invariant: whatever the rehearsal stumbles over changes nothing.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from perdition import __version__
from perdition.check.aside import Verdict
from perdition.errors import StartError
from perdition.notify import UPGRADED, notify
from perdition.places import HANDOVER
from perdition.route import Server
from perdition.server.counters import Counters
from perdition.server.generation import Child, Generation
from perdition.server.listen import Listeners
from perdition.server.pidfile import PidFile

if TYPE_CHECKING:
    from perdition.server.master import Master

# Of what is handed over, and of how the master speaks with workers of an older version: `drain`,
# `log`, `ask`. One that changes its meaning is another format.
FORMAT = 1
PATIENCE = 45.0  # seconds that a rehearsal may take
_SAID = 65_536  # bytes of what it says that are read


class Program(NamedTuple):
    """How a daemon was started: the file, the words behind its name, and where."""

    argv0: str
    argv: list[str]
    directory: str


@dataclass(slots=True)
class Heritage:
    """What a predecessor leaves; without one, nothing."""

    state: dict[str, Any] = field(default_factory=dict)
    rehearsal: bool = False
    caller: socket.socket | None = None  # who waits to hear that the successor is up
    _finished: bool = False

    @property
    def there(self) -> bool:
        """Whether there was a predecessor."""
        return bool(self.state)

    @property
    def passphrase(self) -> bytes | None:
        known = self.state.get("passphrase")
        return None if known is None else bytes.fromhex(known)

    def counters(self) -> Counters:
        """The predecessor's table, so that what it counted holds."""
        if not self.there or self.rehearsal:
            return Counters()
        used = [column for _, _, column, *_ in self.state["children"]]
        return Counters(self.state["counters"], used)

    def listeners(self) -> Listeners:
        """The predecessor's listening sockets."""
        return Listeners(self.state.get("listeners", ()))

    @property
    def judged(self) -> Verdict | None:
        """What the predecessor's configuration was said to be."""
        return Verdict(expected=tuple(self.state["expected"])) if self.there else None

    def adopt(self, master: Master) -> None:
        """Have a successor take over all the rest."""
        state = self.state
        if not self.there or self.rehearsal:
            return
        if not master.counters.anew:
            master.started, master.restarts = state["started"], state["restarts"]
            master.reloads |= state["reloads"]
        master.drained |= {Server(*each) for each in state["drained"]}
        for user, fd, until in state["traces"]:
            master.traces.add(user, fd, until)
            os.close(fd)
        old = Generation(
            master.config, master.current.inherited, None, Listeners(), master.current.identity, 0
        )
        for pid, number, old_column, fd, started, ready in state["children"]:
            column = master.counters.column_of_predecessor(old_column)
            child = Child(pid, number, column, socket.socket(fileno=fd), old, started, ready)
            old.children[pid] = child
            master.desk.meet(child)
        if old.children:
            master.old.append(old)
        master.desk.questions.number = state["question"]
        master.desk.adopt(state["doors"])
        if state["caller"] >= 0:
            self.caller = socket.socket(fileno=state["caller"])

    def leave(self) -> None:
        """In a child: close what only the master serves."""
        if self.caller is not None:
            self.caller.close()

    def finish(self, master: Master) -> None:
        """Once the successor is up the old workers retire; tell the log, and whoever asked for it.

        Until then they take clients, whatever keeps the new ones from it.
        """
        up = [child for child in master.current.children.values() if child.ready]
        if self._finished or not self.there or len(up) < master.current.workers:
            return
        self._finished = True
        master.retire_old()
        if self.state["pid_file"] not in ("", master.config.pid_file):
            PidFile(self.state["pid_file"], master.current.identity).remove()
        before, sessions = self.state["version"], master.counters.total("sessions")
        master.log.info(
            f"Upgraded from version={before} to version={__version__}, {sessions} sessions go on"
        )
        notify("READY=1", UPGRADED)
        if self.caller is None:
            return
        rows = [{"before": before, "version": __version__, "sessions": sessions}]
        end = {"end": True, "ident": master.config.basename, "pid": os.getpid(), "late": []}
        answer = json.dumps({"worker": 0, "rows": rows}) + "\n" + json.dumps(end) + "\n"
        try:
            self.caller.send(answer.encode())
        except OSError:
            pass  # it did not wait
        self.caller.close()
        self.caller = None


def inherited(handover: str) -> Heritage:
    """What a predecessor has left, "FD" or "FD rehearsal"; StartError if we can't read it."""
    word, _, rehearsal = handover.partition(" ")
    if not word.isdigit():
        return Heritage()
    with os.fdopen(int(word), "rb") as file:
        file.seek(0)
        state = json.load(file)
    if state["format"] != FORMAT:
        raise StartError(
            f"version {__version__} can't take over from a running version {state['version']}: "
            "it takes a restart"
        )
    for fd in state["fds"]:
        os.set_inheritable(fd, False)
    return Heritage(state, bool(rehearsal))


# -- the predecessor's side -----------------------------------------------------------------


def upgrade(master: Master, caller: socket.socket | None) -> list[str]:
    """Become the program that is installed now; returns only with what keeps it from that."""
    state, fds = _state_of(master, caller)
    memory = _memory(state)
    try:
        if problems := _rehearse(master, memory, fds):
            return problems
        master.log.flush()
        _execute(master.program, memory, fds, "")
    except OSError as error:
        os.chdir("/")
        return [f"{master.program.argv0}: {error.strerror}"]
    finally:
        os.close(memory)
        for fd in fds:
            os.set_inheritable(fd, False)


def _state_of(master: Master, caller: socket.socket | None) -> tuple[dict[str, Any], list[int]]:
    fds: list[int] = []

    def keep(fd: int) -> int:
        fds.append(fd)
        return fd

    passphrase = master.passphrase.known
    state = {
        "format": FORMAT,
        "version": __version__,
        "passphrase": None if passphrase is None else passphrase.hex(),
        "counters": master.counters.handed_over(keep),
        "listeners": master.current.listeners.handed_over(keep),
        "children": [
            [child.pid, child.number, child.column, keep(child.control.fileno()), child.started,
             child.ready]
            for child in master.children()
        ],
        "doors": master.desk.handed_over(keep),
        "pid_file": master.pid_file.path if master.pid_file else "",
        "started": master.started,
        "restarts": master.restarts,
        "reloads": master.reloads,
        "drained": [list(each) for each in master.drained],
        "expected": list(master.verdict.expected),
        "traces": [
            [user.decode(), keep(sink.fileno()), sink.until]
            for user, sink in master.traces.wanted.items()
        ],
        "question": master.desk.questions.number,
        "caller": -1 if caller is None else keep(caller.fileno()),
    }  # fmt: skip
    state["fds"] = fds
    return state, fds


def _memory(state: dict[str, Any]) -> int:
    fd = os.memfd_create("perdition-handover", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(json.dumps(state).encode())
    return fd


def _execute(program: Program, memory: int, fds: list[int], how: str) -> NoReturn:
    for fd in (memory, *fds):
        os.set_inheritable(fd, True)
    path = os.path.join(program.directory, program.argv0)
    try:
        os.chdir(program.directory)
    except FileNotFoundError:
        pass  # nothing that is named relative to it could be found anyway
    environment = {**os.environ, HANDOVER: f"{memory} {how}".rstrip()}
    os.execve(path, [path, *program.argv], environment)


def _rehearse(master: Master, memory: int, fds: list[int]) -> list[str]:
    """Have the program come up beside us, without serving anyone; what is in the way of that."""
    words = os.memfd_create("perdition-rehearsal", os.MFD_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(words, 1)
            os.dup2(words, 2)
            _execute(master.program, memory, fds, "rehearsal")
        except OSError as error:
            print(f"{master.program.argv0}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    code = _await_end(pid)
    with os.fdopen(words, "rb") as file:
        file.seek(0)
        said = file.read(_SAID).decode("utf-8", "backslashreplace").splitlines()
    if code == 0:
        return []
    if code is None:
        return [f"the new version did not come up within {PATIENCE:g} s"]
    prefix = f"{master.config.basename}: "
    return [line.removeprefix(prefix) for line in said if line] or [
        f"the new version ended with status {code} and without a word"
    ]


def _await_end(pid: int) -> int | None:
    """The exit status of a child, None if it took too long and was killed."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(PATIENCE * 1000))
    finally:
        os.close(pidfd)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if in_time else None
