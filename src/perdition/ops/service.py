"""perdition-service: start, stop, reload, check, report or supervise the daemons of one host.

The successor of Perdition 2.2's init script, and what perdition.service runs. It knows daemons by
their pid files and titles only, keeps no state, and talks to no network.
Invariant: the exit status is 0 only if what was asked for is so, or the file asks for nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from perdition.errors import ConfigError, StartError
from perdition.notify import notify
from perdition.ops.defaults import DAEMONS, MASTER, PATH, Defaults, read_defaults
from perdition.ops.drop_in import drop_in
from perdition.ops.processes import Running, find, listening
from perdition.ops.supervise import go_on, supervise
from perdition.places import RUN_FOLDER
from perdition.protocols import COMMANDS

# Exit statuses as the LSB has them; argparse adds 2 for words it does not know.
OK, FAILED, STATUS_DOWN, STATUS_UNKNOWN, NOT_CONFIGURED, NOT_RUNNING = 0, 1, 3, 4, 6, 7

START_PATIENCE = 60.0  # seconds until a daemon must have come up
STOP_PATIENCE = 30.0  # seconds until one that was told to stop is killed, as in 2.2
KILL_PATIENCE = 5.0  # seconds until one that was killed must be gone


@dataclass(frozen=True, slots=True)
class Service:
    """The daemons of this host; each verb returns an exit status."""

    defaults_file: str = PATH
    run_dir: str = RUN_FOLDER
    protocols: tuple[str, ...] = tuple(DAEMONS)  # which the verbs are about
    patience: float = STOP_PATIENCE
    tolerant: bool = False  # whether `run` leaves aside daemons that can't start

    # -- verbs ------------------------------------------------------------------------------

    def start(self) -> int:
        """Start the daemons that the file chooses and that do not run."""
        return self._start(self._defaults())

    def stop(self) -> int:
        """Stop the daemons that run, whatever the file chooses."""
        return self._stop()

    def restart(self) -> int:
        """Stop the daemons that run and start those chosen; nothing if the file is at fault."""
        defaults = self._defaults()
        return max(self._stop(), self._start(defaults))

    def reload(self) -> int:
        """Have the daemons that run read their configuration anew; those chosen must run."""
        chosen = self._chosen(self._defaults())
        status = OK
        for protocol in self.protocols:
            command = DAEMONS[protocol]
            try:
                running = self._find(command)
                if running is not None:
                    with running:
                        running.send(signal.SIGHUP)
                        _say(command, f"told to reload (pid {running.pid})")
                elif protocol in chosen:
                    _complain(command, "not running")
                    status = max(status, NOT_RUNNING)
            except PermissionError as error:
                _complain(command, f"not reloaded: {error}")
                status = max(status, FAILED)
        return status

    def status(self) -> int:
        """Report each daemon; 3 if one that the file chooses does not run, or none runs."""
        chosen = self._defaults().chosen
        downs, ups = 0, 0
        for protocol in self.protocols:
            command = DAEMONS[protocol]
            try:
                running = self._find(command)
            except PermissionError as error:
                _complain(command, str(error))
                return STATUS_UNKNOWN
            if running is None:
                downs += protocol in chosen
                _say(command, "not running" + ("" if protocol in chosen else ", not chosen"))
                continue
            ups += 1
            with running:
                ports = listening(running.pid)
            shown = "(ask as root)" if ports is None else ", ".join(ports) or "nothing"
            _say(command, f"running, pid {running.pid}, listens on {shown}")
        return OK if ups and not downs else STATUS_DOWN

    def check(self) -> int:
        """Have each chosen daemon say what is wrong, risky or odd in its configuration."""
        defaults = self._defaults()
        environment = os.environ | defaults.environment
        status = OK
        for protocol in self._chosen(defaults):
            words = [*self._words(protocol, defaults), "--check_config"]
            done = subprocess.run(words, env=environment, check=False)
            status = FAILED if done.returncode else status
        return status

    def run(self) -> int:
        """Run the daemons that the file chooses in the foreground, for a service manager."""
        if (status := go_on()) is not None:
            return status
        defaults = self._defaults()
        chosen = self._chosen(defaults)
        if not chosen:
            notify("READY=1", "STATUS=no daemon is chosen")
            return OK
        daemons: dict[str, Sequence[str]] = {}
        for protocol in chosen:
            command = DAEMONS[protocol]
            self._make_way(command)
            daemons[command] = [*self._words(protocol, defaults), "--no_daemon"]
        environment = os.environ | defaults.environment
        return supervise(daemons, environment, tolerant=self.tolerant)

    def drop_in(self) -> int:
        """Print what perdition.service needs beyond what it has, for the chosen daemons."""
        defaults = self._defaults()
        commands = [self._words(each, defaults) for each in self.protocols
                    if each in defaults.chosen]  # fmt: skip
        environment = os.environ | defaults.environment
        broken = [
            os.path.basename(words[0])
            for words in commands
            if subprocess.run(
                [*words, "--check_config"], env=environment, capture_output=True, check=False
            ).returncode
        ]
        if len(broken) == len(commands):
            broken = []  # none starts, either way
        print(drop_in(commands, broken, os.path.abspath(sys.argv[0])), end="")
        return OK

    # -- parts ------------------------------------------------------------------------------

    def _defaults(self) -> Defaults:
        return read_defaults(self.defaults_file)

    def _chosen(self, defaults: Defaults) -> list[str]:
        """Which of our protocols the file chooses; says so when it is none."""
        chosen = [protocol for protocol in self.protocols if protocol in defaults.chosen]
        if not chosen:
            names = f"none of {', '.join(self.protocols)}" if defaults.running else MASTER
            verb = "is" if defaults.running else "is not"
            print(f"perdition-service: nothing to do: {names} {verb} yes in {defaults.path}")
        return chosen

    def _pid_file(self, command: str) -> str:
        return os.path.join(os.path.abspath(self.run_dir), f"{command}.pid")

    def _find(self, command: str) -> Running | None:
        return find(command, self._pid_file(command))

    def _words(self, protocol: str, defaults: Defaults) -> list[str]:
        """The daemon's program and words; ours are last, so that they hold."""
        command = DAEMONS[protocol]
        pid_file = self._pid_file(command)
        return [_program(command), *defaults.words[protocol], "--pid_file", pid_file]

    def _make_way(self, command: str) -> None:
        """See to it that a daemon can write its pid file; StartError if it runs already.

        The number in a file that was left behind may be another process's by now, which the
        daemon would take for its like.
        """
        os.makedirs(self.run_dir, 0o755, exist_ok=True)
        running = self._find(command)
        if running is not None:
            with running:
                raise StartError(f"{command}: already running (pid {running.pid})")
        try:
            os.unlink(self._pid_file(command))
        except FileNotFoundError:
            pass

    def _start(self, defaults: Defaults) -> int:
        status = OK
        for protocol in self._chosen(defaults):
            command = DAEMONS[protocol]
            try:
                running = self._find(command)
                if running is not None:
                    with running:
                        _say(command, f"already running (pid {running.pid})")
                    continue
                self._make_way(command)
                self._launch(protocol, defaults)
            except (StartError, OSError) as error:
                _complain(command, f"not started: {error}")
                status = FAILED
        return status

    def _launch(self, protocol: str, defaults: Defaults) -> None:
        """Start a daemon and wait until it is up; StartError says what kept it from that.

        Its stderr is ours, its stdin too: it may ask for the key's passphrase.
        """
        command = DAEMONS[protocol]
        environment = os.environ | defaults.environment
        first = subprocess.Popen(self._words(protocol, defaults), env=environment)
        end = time.monotonic() + START_PATIENCE
        while True:
            try:
                code = first.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                running = self._find(command)
                if running is not None:
                    with running:
                        if running.pid != first.pid and time.monotonic() < end:
                            continue
                elif time.monotonic() < end:
                    continue
                first.terminate()
                first.wait()
                raise StartError(
                    "it stays in the foreground (no_daemon, or log_facility - or +): "
                    "use perdition-service run"
                ) from None
        if code:
            raise StartError(f"signal {-code}" if code < 0 else f"exit status {code}")
        running = self._find(command)
        if running is None:
            raise StartError("it has ended; see its log")
        with running:
            _say(command, f"started (pid {running.pid})")

    def _stop(self) -> int:
        status = OK
        with ExitStack() as held:
            told: dict[str, Running] = {}
            for protocol in self.protocols:
                command = DAEMONS[protocol]
                try:
                    running = self._find(command)
                    if running is not None:
                        held.enter_context(running).send(signal.SIGTERM)
                        told[command] = running
                except PermissionError as error:
                    _complain(command, f"not stopped: {error}")
                    status = FAILED
            if not told and not status:
                print("perdition-service: no daemon is running")
            return max(status, self._await_end(told))

    def _await_end(self, told: dict[str, Running]) -> int:
        end = time.monotonic() + self.patience
        late = {}
        for command, running in told.items():
            if running.ends_within(end - time.monotonic()):
                _say(command, f"stopped (pid {running.pid})")
            else:
                running.send(signal.SIGKILL)
                late[command] = running
        status = OK
        for command, running in late.items():
            if running.ends_within(KILL_PATIENCE):
                _complain(command, f"killed (pid {running.pid}): it did not end in time")
            else:
                _complain(command, f"not stopped: pid {running.pid} survives SIGKILL")
                status = FAILED
        return status


def _program(command: str) -> str:
    """The daemon's file: beside this program, or beside the interpreter."""
    for neighbour in (sys.argv[0], sys.executable):
        path = os.path.join(os.path.dirname(os.path.abspath(neighbour)), command)
        if os.access(path, os.X_OK):
            return path
    raise StartError(f"{command}: there is no such program beside {sys.argv[0]}")


def _say(command: str, text: str) -> None:
    print(f"{command}: {text}", flush=True)


def _complain(command: str, text: str) -> None:
    print(f"{command}: {text}", file=sys.stderr, flush=True)


def _protocol(word: str) -> str:
    """Read `imap4s`, `imaps` or `perdition.imaps`, in any case."""
    command = f"perdition.{word.lower().removeprefix('perdition.')}"
    if command not in COMMANDS:
        known = ", ".join(name.removeprefix("perdition.") for name in COMMANDS)
        raise argparse.ArgumentTypeError(f"no such protocol: {word!r} (one of {known})")
    return COMMANDS[command]


VERBS: dict[str, Callable[[Service], int]] = {
    "start": Service.start,
    "stop": Service.stop,
    "restart": Service.restart,
    "reload": Service.reload,
    "force-reload": Service.reload,  # as the init script had it
    "status": Service.status,
    "check": Service.check,
    "run": Service.run,
    "drop-in": Service.drop_in,
}


def parser() -> argparse.ArgumentParser:
    """The command's words."""
    top = argparse.ArgumentParser(
        prog="perdition-service",
        description="Start, stop, reload, check, report or supervise the daemons that "
        f"{PATH} chooses.",
        epilog="Exit status: 0 done, 1 failed, 2 usage, 3 status: not running, 4 status: unknown, "
        "6 the file is at fault, 7 reload: not running.",
        allow_abbrev=False,
    )
    top.add_argument(
        "--defaults",
        metavar="FILE",
        default=PATH,
        help="the file that chooses daemons (default: %(default)s)",
    )
    top.add_argument(
        "--run-dir",
        metavar="DIR",
        default=RUN_FOLDER,
        help="folder of the pid files (default: %(default)s)",
    )
    top.add_argument(
        "--wait", metavar="SECONDS", type=float, default=STOP_PATIENCE,
        help="stop, restart: kill what has not ended by then (default: %(default)g)",
    )  # fmt: skip
    top.add_argument(
        "--tolerant", action="store_true", help="run: leave aside daemons that can't start"
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        words = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        words.add_argument(
            "protocol", nargs="?", type=_protocol, help="only this daemon, such as imap4s"
        )
    return top


def main(argv: Iterable[str] | None = None) -> None:
    """The console command."""
    words = parser().parse_args(None if argv is None else list(argv))
    protocols = (words.protocol,) if words.protocol else tuple(DAEMONS)
    service = Service(words.defaults, words.run_dir, protocols, words.wait, words.tolerant)
    try:
        status = VERBS[words.verb](service)
    except (ConfigError, StartError, OSError) as error:
        for problem in str(error).splitlines():
            print(f"perdition-service: {problem}", file=sys.stderr)
        status = NOT_CONFIGURED if isinstance(error, ConfigError) else FAILED
    sys.exit(status)
