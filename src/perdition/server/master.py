"""The master: binds, forks workers, replaces those that die, makes a new generation on SIGHUP.

It keeps the privileges it was started with, runs no event loop and no thread, and reads nothing
from the network; so it may fork at any time. Signals are blocked and fetched one by one.
Invariant: a configuration that can't be used changes nothing; the workers in service stay.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

from setproctitle import setproctitle

from perdition.check.aside import Verdict, verdict
from perdition.config import Config
from perdition.errors import ConfigError, StartError
from perdition.log import Log
from perdition.metrics import Meter
from perdition.notify import notify, notify_reloading
from perdition.route import Server
from perdition.server.desk import Desk
from perdition.server.generation import Child, Generation
from perdition.server.handover import Heritage, Program, upgrade
from perdition.server.helpers import Helpers
from perdition.server.limits import ConnectionLimit, make_arrivals, make_penalties
from perdition.server.listen import Listeners
from perdition.server.pidfile import PidFile
from perdition.server.privileges import be_careful, close_memory, find_identity
from perdition.server.setup import (
    announce,
    load_grammar,
    make_inherited,
    make_log,
    make_service,
    say_what_is_in_force,
)
from perdition.server.watch import FileWatch
from perdition.server.worker import Orders, run_worker
from perdition.session.tracing import Traces
from perdition.tls import Passphrase

READY = 30.0  # seconds that a worker has to say that it is ready
RESTART_PAUSE = 1.0  # seconds between two starts of a worker that dies at once

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# SIGIO: a socket of the desk is ready.
_WATCHED = frozenset((*_ENDS, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO))
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM)


class Master:
    """A daemon; `load` reads its configuration anew, for a reload."""

    def __init__(
        self, config: Config, load: Callable[[], Config], program: Program, heritage: Heritage
    ) -> None:
        be_careful(core_dumps=config.core_dumps)
        self._load = load
        self.program = program
        self._heritage = heritage
        self.config = config
        self.log: Log = make_log(config)
        self.counters = heritage.counters()
        self.passphrase = Passphrase(config, heritage.passphrase)
        listeners = heritage.listeners()
        self.current = self._prepare(config, listeners)
        listeners.close_all_but(self.current.listeners)
        self.old: list[Generation] = []
        self.verdict = verdict(config)
        self.pid_file: PidFile | None = None
        self.stop_by = 0.0  # monotonic; 0: not stopping
        self.started = time.monotonic()
        self.restarts = 0  # of workers that died
        self.reloads = {"ok": 0, "failed": 0}
        self.reload_problems: list[str] = []  # why the last reload failed; empty: it did not
        self.drained: set[Server] = set()  # that get no new sessions
        self.traces = Traces()
        self.desk = Desk(self)
        self._watch = FileWatch(config)
        self._respawn: list[tuple[float, int]] = []  # when, worker number
        heritage.adopt(self)

    def _prepare(self, config: Config, listeners: Listeners) -> Generation:
        identity = find_identity(config.username, config.group)
        helpers = None
        if config.authenticate_in:
            helpers = Helpers(config.basename, config.pam_processes, config.pam_folder)
        inherited = make_inherited(config, self.passphrase, helpers.ask if helpers else None)
        load_grammar(config)
        workers = config.workers or len(os.sched_getaffinity(0))
        adapted = listeners.adapt(config, workers)
        return Generation(config, inherited, helpers, adapted, identity, workers)

    # -- start ------------------------------------------------------------------------------

    def run(self, came_up: Callable[[], None]) -> int:
        """Start the workers, say that we came up, serve; return the exit status.

        StartError when it can't; then nothing of it is left.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        self.log.after_fork()
        config = self.config
        if config.pid_file:
            pid_file = PidFile(config.pid_file, self.current.identity)
            pid_file.write(self.log)
            self.pid_file = pid_file
        try:
            setproctitle(f"{config.basename}: daemon")
            announce(config, self.log)
            self._open_desk(config)
            self._tell(self.verdict)
            try:
                self._start_workers(self.current)
            except StartError as error:
                for child in self.current.children.values():
                    os.kill(child.pid, signal.SIGKILL)
                if not self.old:
                    raise
                # Those of a predecessor go on meanwhile.
                self.log.err(f"upgrade: {error}; trying again")
            came_up()
            notify("READY=1", f"STATUS=listening on {self.current.listeners}")
            self._serve()
        finally:
            self.desk.close()
            if self.pid_file:
                self.pid_file.remove()
            self.log.flush()
        return 0

    def _open_desk(self, config: Config) -> None:
        try:
            self.desk.open(config)
        except StartError as error:
            if not self._heritage.there:
                raise
            self.log.err(str(error))  # there are sessions to look after

    def _tell(self, judged: Verdict) -> None:
        for text in judged.told:
            self.log.notice(f"warning: {text}")

    def _start_workers(self, generation: Generation) -> None:
        self._start_helpers(generation)
        for number in range(generation.workers):
            self._spawn(generation, number)
        for child in list(generation.children.values()):
            self._await_ready(child)

    def _start_helpers(self, generation: Generation) -> None:
        if generation.helpers is not None:
            generation.helpers.fill_up(partial(self._in_helper, generation))

    def _in_helper(self, generation: Generation) -> None:
        close_memory(core_dumps=generation.config.core_dumps)
        self._forget_others(generation)
        self.traces.wanted.clear()
        for each in (generation, self.current):
            for listener in each.listeners.all():
                listener.close()

    def _forget_others(self, generation: Generation) -> None:
        """In a child: close what only the master and other processes have to do with."""
        self.desk.leave()
        self._heritage.leave()
        for other in {id(g): g for g in (*self.old, self.current)}.values():
            for child in other.children.values():
                child.control.close()
            if other.helpers is not None and other is not generation:
                other.helpers.close()

    def _spawn(self, generation: Generation, number: int) -> None:
        column = self.counters.take()
        if column is None:
            raise StartError("too many old workers are alive; reload_timeout bounds them")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_worker(generation, number, column, theirs)
        theirs.close()
        child = Child(pid, number, column, ours, generation, time.monotonic())
        generation.children[pid] = child
        self.desk.meet(child)

    def _be_worker(
        self, generation: Generation, number: int, column: int, control: socket.socket
    ) -> None:
        """Live as a worker in the process just forked, and never return from it."""
        status = 70
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            self._forget_others(generation)
            config = generation.config
            sockets = generation.listeners.sockets(number)
            for listener in generation.listeners.all():
                if listener not in sockets:
                    listener.close()
            title = f"{config.basename}: worker {number + 1}"
            setproctitle(title)
            orders = Orders(
                number, sockets, control, generation.identity, config.core_dumps, self.log,
                ConnectionLimit(self.counters, column, config.connection_limit),
                partial(
                    make_service, config, generation.inherited, self.log,
                    meter=Meter(self.counters.metrics(column)), traces=self.traces,
                    arrivals=make_arrivals(config, self.counters, column),
                    penalties=make_penalties(config, self.counters.penalties),
                ),
                frozenset(self.drained),
            )  # fmt: skip
            status = run_worker(orders)
        except Exception as error:  # one of five doors: the master hears of it and goes on
            why = f"worker {number + 1} failed: {type(error).__name__}: {error}"
            self.log.err(why)
            control.send(f"error {why}".encode())
        finally:
            os._exit(status)

    def _await_ready(self, child: Child) -> None:
        child.control.settimeout(READY)
        try:
            word = child.control.recv(4096).decode()
        except OSError:
            word = "error it did not come up in time"
        child.control.settimeout(None)
        if word != "ready":
            raise StartError(word.removeprefix("error ") or "a worker died while it started")
        child.ready = True

    # -- serving ----------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            self._heritage.finish(self)
            info = signal.sigtimedwait(_WATCHED, self._patience())
            if info is not None:
                if info.si_signo in _ENDS:
                    self._stop(info.si_signo)
                elif info.si_signo == signal.SIGHUP and not self.stop_by:
                    self.reload()
            self._reap()
            now = time.monotonic()
            if self._watch.changed(now) and not self.stop_by:
                self.log.info("certificates or keys have changed")
                self.reload(self.config)
            if self.stop_by:
                if not self.children():
                    return
                if now >= self.stop_by:
                    self._kill()
            self._respawn_due(now)
            self.desk.tick(now)
            self.log.flush()

    def _patience(self) -> float:
        """Seconds until something has to be done without a signal."""
        waits = [when for when, _ in self._respawn]
        if self.stop_by:
            waits.append(self.stop_by)
        waits += (self._watch.due, self.desk.due)
        return max(0.01, min(3600.0, min(waits) - time.monotonic()))

    def children(self) -> list[Child]:
        """The workers of all generations."""
        return [c for g in (*self.old, self.current) for c in g.children.values()]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._helper_ended(pid)
            for child in self.children():
                if child.pid == pid:
                    self._buried(child, os.waitstatus_to_exitcode(status))

    def _helper_ended(self, pid: int) -> None:
        for generation in (*self.old, self.current):
            helpers = generation.helpers
            if helpers is not None and pid in helpers.pids:
                helpers.pids.remove(pid)
                if generation is self.current and not self.stop_by:
                    self.log.err(f"authentication process [{pid}] ended: starting another")
                    self._start_helpers(generation)

    def _buried(self, child: Child, code: int) -> None:
        held = self.counters.held("sessions", child.column)
        self.counters.release(child.column)
        self.desk.part(child)
        child.control.close()
        generation = child.generation
        del generation.children[child.pid]
        if generation is self.current and not self.stop_by:
            how = f"signal {-code}" if code < 0 else f"status {code}"
            self.log.err(
                f"worker {child.number + 1} [{child.pid}] ended with {how}, {held} sessions lost: "
                "starting another"
            )
            self.restarts += 1
            now = time.monotonic()
            pause = RESTART_PAUSE if now - child.started < RESTART_PAUSE else 0.0
            self._respawn.append((now + pause, child.number))
        elif generation in self.old and not generation.children:
            self.old.remove(generation)
            if generation.helpers is not None:
                generation.helpers.close()

    def _respawn_due(self, now: float) -> None:
        due = [entry for entry in self._respawn if entry[0] <= now]
        for entry in due:
            self._respawn.remove(entry)
            if self.stop_by:
                continue
            try:
                self._spawn(self.current, entry[1])
            except (StartError, OSError) as error:
                self.log.err(f"can't start worker {entry[1] + 1}: {error}")
                self._respawn.append((now + RESTART_PAUSE, entry[1]))

    # -- reload -----------------------------------------------------------------------------

    def reload(self, config: Config | None = None) -> None:
        """Make a new generation, of `config` or a new reading; on any problem keep the old one."""
        notify_reloading()
        try:
            config = config or self._load()
            judged = verdict(config)
            if errors := judged.new_errors(self.verdict):
                raise StartError("\n".join(errors))
            log = make_log(config)
            new = self._prepare(config, self.current.listeners)
        except (ConfigError, StartError, OSError) as error:
            self._reload_failed(error)
            return
        before, old_log = self.current, self.log
        self.log = log
        self._respawn.clear()
        try:
            self._start_workers(new)
            self.desk.open(config)
        except StartError as error:
            self._abandon(new, before, old_log, error)
            return
        self.current, self.config = new, config
        self.old.append(before)
        self.retire_old()
        before.listeners.close_all_but(new.listeners)
        old_log.target.close()
        self.verdict = judged
        self.reloads["ok"] += 1
        self.reload_problems = []
        self._watch.look(config)
        log.info("Reloaded configuration, certificates and log")
        say_what_is_in_force(config, log)
        self._tell(judged)
        notify("READY=1", f"STATUS=listening on {new.listeners}")

    def retire_old(self) -> None:
        """Have the workers of old generations take no more clients."""
        for generation in self.old:
            for child in generation.children.values():
                self._order(child, f"drain {self.config.reload_timeout}")
                self._pass_log(child)

    def _abandon(self, new: Generation, before: Generation, log: Log, error: StartError) -> None:
        """Undo a reload whose workers did not come up."""
        self.log = log
        for child in new.children.values():
            os.kill(child.pid, signal.SIGKILL)
        new.listeners.close_all_but(before.listeners)
        self.old.append(new)
        self._reload_failed(error)

    def _reload_failed(self, error: Exception) -> None:
        self.reloads["failed"] += 1
        self.reload_problems = str(error).splitlines()
        for line in self.reload_problems:
            self.log.err(f"reload: {line}")
        self.log.err("reload failed: the old configuration stays in force")
        notify("READY=1", "STATUS=reload failed, the old configuration is in force")

    def _pass_log(self, child: Child) -> None:
        """Hand a worker of an old generation the log file that a rotation has made anew."""
        if self.config.log_facility.startswith("/"):
            try:
                socket.send_fds(child.control, [b"log"], [self.log.target.fileno()])
            except OSError:
                pass  # it has ended meanwhile

    def upgrade(self, caller: socket.socket | None = None) -> list[str]:
        """Become the installed version of this program; returns only with what is in the way."""
        notify_reloading()
        problems = upgrade(self, caller)
        for line in (*problems, "failed: the old version stays in service"):
            self.log.err(f"upgrade: {line}")
        notify("READY=1", "STATUS=upgrade failed, the old version is in service")
        return problems

    def rehearse(self) -> None:
        """Come up without a client, a file or a word; StartError when that fails."""
        before = self._heritage.judged
        if before is not None and (errors := self.verdict.new_errors(before)):
            raise StartError("\n".join(errors))
        self.current.listeners = Listeners()
        self._start_workers(self.current)  # they end when we do

    # -- stop -------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        if self.stop_by:
            self._kill()
            return
        self.log.info(f"Exiting on signal {number}")
        notify("STOPPING=1")
        seconds = self.current.config.shutdown_timeout
        self.stop_by = time.monotonic() + (seconds + 5 if seconds else 10 * 365 * 86400)
        if self.pid_file:
            self.pid_file.remove()
        self.current.listeners.close()
        for child in self.children():
            self._order(child, f"drain {seconds}")

    def _order(self, child: Child, words: str) -> None:
        try:
            child.control.send(words.encode())
        except OSError:
            pass  # it has ended meanwhile

    def _kill(self) -> None:
        for child in self.children():
            os.kill(child.pid, signal.SIGKILL)
