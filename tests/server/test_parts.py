"""The parts of the daemon, each with the kernel's real objects."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from perdition.config import Config, load
from perdition.errors import StartError
from perdition.log import Log, open_target
from perdition.server.counters import COLUMNS, METRICS, Counters
from perdition.server.limits import ConnectionLimit
from perdition.server.listen import Listeners
from perdition.server.pidfile import PidFile
from perdition.server.privileges import Identity, find_identity
from perdition.server.sweep import Sweep
from perdition.server.worker import Orders, Worker
from perdition.session.service import Slot

ME = Identity("", os.getuid(), os.getgid())


def config(tmp_path: Path, *words: str) -> Config:
    """A configuration from the command line alone."""
    return load("perdition.imap4", [*words], config_dir=str(tmp_path))


def file_log(path: Path, **options: bool) -> Log:
    """A log that goes to `path`."""
    return Log(open_target(str(path), ""), "perdition.imap4", **options)


# -- the worker -----------------------------------------------------------------------------


def test_clients_are_accepted_behind_a_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[socket.SocketType] = []
    monkeypatch.setattr(Worker, "_admit", lambda self, sock, *ends: came.append(sock))
    service: Any = None  # none is wanted up to there
    control, theirs = socket.socketpair()
    with control, theirs, socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        worker = Worker(Orders(
            number=0, sockets=[door], control=control, identity=ME, core_dumps=False,
            log=file_log(tmp_path / "log"), limit=ConnectionLimit(Counters(), 0, 0),
            make_service=service, drained=frozenset(),
        ))  # fmt: skip
        worker._listen()
        clients = [socket.create_connection(door.getsockname()) for _ in range(3)]
        worker.poller.crowded = True
        worker._accept(door, socket.AF_INET, None)
        assert came == []
        worker.poller.wait(0)
        assert len(came) == 3
        clients.append(socket.create_connection(door.getsockname()))
        worker.poller.crowded = True
        worker._accept(door, socket.AF_INET, None)
        worker._pause()  # as another socket of the batch has it
        worker.poller.wait(0)
        assert len(came) == 3
        worker._accept_again()
        worker.poller.wait(0)
        assert len(came) == 4
        for each in (*clients, *came):
            each.close()
        worker.loop.close()
    assert (tmp_path / "log").read_text() == ""


# -- counters and limits --------------------------------------------------------------------


def test_a_limit_is_exact_over_processes_that_race() -> None:
    counters = Counters()
    limit = 50
    go_reader, go_writer = os.pipe()
    pids = []
    for _ in range(4):
        column = counters.take()
        assert column is not None
        pid = os.fork()
        if pid == 0:
            os.read(go_reader, 1)
            mine = ConnectionLimit(counters, column, limit)
            admitted = sum(mine.enter() for _ in range(100))
            for _ in range(admitted // 2):
                mine.leave()
            os._exit(0)
        pids.append(pid)
    os.write(go_writer, b"gogo")
    for pid in pids:
        os.waitpid(pid, 0)
    entered = ConnectionLimit(counters, COLUMNS - 1 - 4, limit)
    free = sum(entered.enter() for _ in range(100))
    assert free == limit - (counters.total("sessions") - free)
    assert counters.total("sessions") == limit
    assert counters.total("connections") == 500
    os.close(go_reader)
    os.close(go_writer)


def test_what_a_dead_worker_held_is_given_back() -> None:
    counters = Counters()
    column = counters.take()
    assert column is not None
    held = ConnectionLimit(counters, column, 3)
    assert [held.enter() for _ in range(4)] == [True, True, True, False]
    counters.release(column)
    totals = {metric: counters.total(metric) for metric in METRICS}
    assert totals == {"sessions": 0, "connections": 4, "refused": 1, "alive": 0}
    assert counters.take() == column


def test_columns_run_out_politely() -> None:
    counters = Counters()
    assert sum(counters.take() is not None for _ in range(COLUMNS + 2)) == COLUMNS


# -- pid file -------------------------------------------------------------------------------


def test_pid_file_is_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.pid"
    pid_file = PidFile(str(path), ME)
    pid_file.write(file_log(tmp_path / "log"))
    assert path.read_text() == str(os.getpid())
    pid_file.remove()
    assert not path.exists()


def test_pid_file_of_a_living_process_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("1")
    with pytest.raises(StartError, match=r"exists for process \[1\] which appears to be running"):
        PidFile(str(path), ME).write(file_log(tmp_path / "log"))
    assert path.read_text() == "1"


@pytest.mark.parametrize("content", ["", "garbage", "99999999"])
def test_stale_pid_file_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(content)
    PidFile(str(path), ME).write(file_log(tmp_path / "log"))
    assert path.read_text() == str(os.getpid())
    assert "Removed stale pid-file" in (tmp_path / "log").read_text()


def test_pid_file_of_another_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    PidFile(str(path), ME).write(file_log(tmp_path / "log"))
    path.write_text("1")
    PidFile(str(path), ME).remove()
    assert path.exists()


# -- listening ------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_one_socket_a_worker_and_a_port_in_use_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    options = config(tmp_path, "-b", "127.0.0.1", "-l", port)
    first = Listeners().adapt(options, 3)
    assert len({sock.fileno() for n in range(3) for sock in first.sockets(n)}) == 3
    with pytest.raises(StartError, match=f"127.0.0.1:{port}: address already in use"):
        Listeners().adapt(options, 1)
    first.close()


def test_a_reload_keeps_the_sockets_that_stay(tmp_path: Path) -> None:
    port, other = str(free_port()), str(free_port())
    before = Listeners().adapt(config(tmp_path, "-b", "127.0.0.1", "-l", port), 2)
    more = f"127.0.0.1:{port},127.0.0.1:{other}"
    after = before.adapt(config(tmp_path, "-b", more), 2)
    assert set(before.all()) <= set(after.all())
    assert len(after.all()) == 4
    before.close_all_but(after)
    assert all(sock.fileno() >= 0 for sock in before.all())
    last = after.adapt(config(tmp_path, "-b", "127.0.0.1", "-l", other), 1)
    after.close_all_but(last)
    assert [sock.fileno() >= 0 for sock in after.all()].count(True) == 1
    last.close()


def test_a_failed_change_of_addresses_leaves_all_as_it_was(tmp_path: Path) -> None:
    port, taken = str(free_port()), str(free_port())
    before = Listeners().adapt(config(tmp_path, "-b", "127.0.0.1", "-l", port), 1)
    with socket.create_server(("127.0.0.1", int(taken))), pytest.raises(StartError):
        before.adapt(config(tmp_path, "-b", f"127.0.0.1:{port},127.0.0.1:{taken}"), 2)
    with socket.create_connection(("127.0.0.1", int(port))):
        pass
    before.close()


def test_without_bind_address_both_families_are_served(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners().adapt(config(tmp_path, "-l", str(port)), 1)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with socket.create_connection(("::1", port)):
            pass
    listeners.close()


# -- users ----------------------------------------------------------------------------------


def test_identities_by_name_and_number() -> None:
    assert find_identity("nobody", "nogroup") == find_identity("65534", "65534")
    with pytest.raises(StartError, match="no such user: 'no-such-user'"):
        find_identity("no-such-user", "nogroup")
    with pytest.raises(StartError, match="no such group: 'no-such-group'"):
        find_identity("nobody", "no-such-group")


# -- the sweep ------------------------------------------------------------------------------


class Thing:
    """Something that is due, and says when again."""

    def __init__(self, *answers: int) -> None:
        self.slot: Slot | None = None
        self.answers = list(answers)
        self.asked: list[int] = []

    def due(self, now: int) -> int:
        self.asked.append(now)
        return self.answers.pop(0) if self.answers else 0


def test_sweep_asks_whoever_is_due_and_nobody_else() -> None:
    loop = asyncio.new_event_loop()
    ticks: list[int] = []
    sweep = Sweep(loop, lambda: ticks.append(1))
    start = sweep.now
    soon, later, again, gone = Thing(), Thing(), Thing(start + 2), Thing()
    for thing, wait in ((soon, 1), (later, 1000), (again, 1), (gone, 1)):
        sweep.by(thing, start + wait)
    sweep.forget(gone)
    sweep.by(soon, start + 500)  # is asked earlier anyway
    sweep.by(later, start + 1000)
    sweep.start()
    loop.call_later(3.2, loop.stop)
    loop.run_forever()
    loop.close()
    assert len(ticks) in (2, 3)
    assert (len(soon.asked), len(again.asked), later.asked, gone.asked) == (1, 2, [], [])
    assert soon.slot is again.slot is None
    assert later.slot is not None
    assert later.slot.second == start + 1000


def test_sweep_asks_the_others_when_one_fails() -> None:
    loop = asyncio.new_event_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    sweep = Sweep(loop, lambda: None)

    class Broken(Thing):
        def due(self, now: int) -> int:
            super().due(now)
            raise ValueError("of ours")

    things = [Thing(), Broken(), Thing(), Broken(), Thing()]
    for thing in things:
        sweep.by(thing, sweep.now + 1)
    sweep.start()
    loop.call_later(4.5, loop.stop)
    loop.run_forever()
    loop.close()
    assert [len(thing.asked) for thing in things] == [1] * 5
    assert len(faults) == 2


# -- the log --------------------------------------------------------------------------------


def test_a_line_is_one_line_whatever_a_peer_sends(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")
    log.notice('user "x\r\nMar  1 00:00:00 perdition.imap4[1]: Auth: forged\x1b[2J"')
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(
        f'perdition.imap4[{os.getpid()}]: user "x\\r\\nMar  1 00:00:00 '
        'perdition.imap4[1]: Auth: forged\\x1b[2J"'
    )


def test_levels(tmp_path: Path) -> None:
    for options, count in (({}, 3), ({"quiet": True}, 1), ({"debug": True}, 4)):
        path = tmp_path / f"log{count}"
        log = file_log(path, **options)
        for say in (log.err, log.notice, log.info, log.debug):
            say("x")
        assert len(path.read_text().splitlines()) == count


def test_syslog_lines_and_a_daemon_that_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "syslog")
    log = Log(open_target("mail", path), "perdition.imaps")
    log.info("nobody listens yet")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(path)
        log.notice("first")
        assert syslogd.recv(999).endswith(b"nobody listens yet")
        packet = syslogd.recv(999)
    stamp = time.strftime("%b %d").encode()
    assert packet.startswith(b"<21>" + stamp)
    assert packet.endswith(b" perdition.imaps[%d]: first" % os.getpid())
    os.unlink(path)
    log.err("lost connection")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(path)
        log.flush()
        assert syslogd.recv(999).endswith(b"lost connection")
    log.target.close()


def test_a_log_that_takes_nothing_is_bounded_and_says_so(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log = file_log(tmp_path / "log")
    from perdition.log import DescriptorTarget  # noqa: PLC0415 - the pipe stands for stdout

    log.target = DescriptorTarget(writer)
    for number in range(9000):
        log.info(f"line {number} " + "x" * 200)
    os.set_blocking(reader, False)
    text = b""
    for _ in range(3000):
        try:
            text += os.read(reader, 65536)
        except BlockingIOError:
            log.flush()
            if text.endswith(b"did not take them\n"):
                break
    lines = text.decode().splitlines()
    numbers = [int(line.split("line ")[1].split()[0]) for line in lines[:-1]]
    assert numbers == list(range(len(numbers)))
    assert f"{9000 - len(numbers)} log lines lost" in lines[-1]
    os.close(reader)
    os.close(writer)


def test_lines_wait_for_others_while_there_is_much_to_do(tmp_path: Path) -> None:
    log, path = file_log(tmp_path / "log"), tmp_path / "log"
    log.batching = True
    log.info("one")
    log.batch_over(crowded=True)
    assert path.read_text() == ""
    log.flush()  # as every second
    assert path.read_text().endswith(": one\n")
    log.info("two")
    log.batch_over(crowded=False)
    assert path.read_text().endswith(": two\n")
    for number in range(100):
        log.info(f"line {number}")
        log.batch_over(crowded=True)
    lines = path.read_text().splitlines()[2:]
    assert len(lines) == 64
    assert lines[-1].endswith(": line 63")
    log.target.close()


def test_lines_of_a_batch_have_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, path = file_log(tmp_path / "log"), tmp_path / "log"
    now = [1000.0]
    monkeypatch.setattr("perdition.log.time", lambda: now[0])
    log.batching = True
    log.info("one")
    now[0] += 1
    log.info("the same batch")
    log.batch_over(crowded=True)
    log.info("the next")
    log.flush()
    first, second, third = (line[:15] for line in path.read_text().splitlines())
    assert first == second != third
    log.target.close()


def test_json_lines(tmp_path: Path) -> None:
    log = Log(open_target(str(tmp_path / "log"), ""), "perdition.imap4", as_json=True)
    log.notice("hello\n", {"event": "test"})
    line = (tmp_path / "log").read_text()
    assert '"level": "notice"' in line
    assert '"message": "hello\\n", "event": "test"}' in line
    assert line.count("\n") == 1


def test_an_unusable_log_is_an_error_of_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file or directory"):
        open_target(str(tmp_path / "none" / "log"), "")
    with pytest.raises(StartError, match="no such facility: 'frob'"):
        open_target("frob", "")
