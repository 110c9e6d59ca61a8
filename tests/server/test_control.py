"""The control socket of a daemon with two workers before a real Dovecot."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.servers.control import ask, ask_raw, rows
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port, wait_for

USERS = {"ann": "canary-ann", "bob": "canary-bob"}


@pytest.fixture(scope="module")
def daemon(dovecot: Dovecot, folder: Path) -> Iterator[Daemon]:
    """A daemon with two workers that all tests of this file may ask."""
    with Daemon(folder / "daemon", *before(dovecot)) as running:
        yield running


def before(dovecot: Dovecot) -> tuple[str, ...]:
    """The options that put two workers before a server."""
    return ("outgoing_server 127.0.0.1", f"outgoing_port {dovecot.port}", "workers 2",
            "failure_delay 0")  # fmt: skip


def log_in(daemon: Daemon, user: str = "ann") -> Lines:
    """A client that is in."""
    client = Lines.to(daemon.port)
    client.hear()
    assert client.ask(f"a LOGIN {user} {USERS[user]}")[-1] == "a OK You are so in"
    return client


def spread(daemon: Daemon, user: str = "ann") -> list[Lines]:
    """Clients that are in, at least one at each worker."""
    clients: list[Lines] = []
    while len({row["pid"] for row in ask(daemon.control, verb="who")[:-1]}) < 2:
        clients.append(log_in(daemon, user))
        assert len(clients) < 50
    return clients


def close(clients: list[Lines]) -> None:
    for client in clients:
        client.__exit__()


# -- verbs ----------------------------------------------------------------------------------


def test_status_counts_sessions_of_all_workers(daemon: Daemon) -> None:
    clients = spread(daemon)
    status = ask(daemon.control, verb="status")[0]["status"]
    assert status["pid"] == daemon.process.pid
    assert status["ident"] == "perdition.imap4"
    assert status["listens"] == f"127.0.0.1:{daemon.port}"
    assert status["sessions"] == len(clients)
    assert [worker["answers"] for worker in status["workers"]] == [True, True]
    assert sum(worker["sessions"] for worker in status["workers"]) == len(clients)
    close(clients)
    wait_for(lambda: not ask(daemon.control, verb="status")[0]["status"]["sessions"], "they stay")


def test_who_shows_each_session_and_kick_ends_them(daemon: Daemon, dovecot: Dovecot) -> None:
    clients = spread(daemon)
    with log_in(daemon, "bob") as bob, Lines.to(daemon.port) as stranger:
        stranger.hear()
        found = rows(ask(daemon.control, verb="who"))
        assert len(found) == len(clients) + 2
        assert len({row["id"] for row in found}) == len(found)
        assert len(rows(ask(daemon.control, verb="who", match="127.0.0.1"))) == len(found)
        (row,) = rows(ask(daemon.control, verb="who", match="bob"))
        assert (row["client"], row["client_port"]) == bob.sock.getsockname()
        assert row["server"] == f"127.0.0.1:{dovecot.port}"
        assert row["logged_in"]
        assert row["tls"] is None
        before_noop = row["received"]
        bob.ask("b NOOP")
        assert rows(ask(daemon.control, verb="who", match=row["id"]))[0]["received"] > before_noop
        assert sorted(row["user"] for row in found) == ["", *["ann"] * len(clients), "bob"]

        kicked = rows(ask(daemon.control, verb="kick", match="ann"))
        assert len(kicked) == len(clients)
        assert all(client.hear() == "" for client in clients)
        assert bob.ask("c NOOP")[-1].startswith("c OK")
        assert len(rows(ask(daemon.control, verb="kick", match=row["id"]))) == 1
        assert bob.hear() == ""
        host, port = stranger.sock.getsockname()
        (row,) = rows(ask(daemon.control, verb="who", match=host))
        assert row["client_port"] == port
        assert rows(ask(daemon.control, verb="kick", match=row["id"]))
        assert stranger.hear().startswith("* BYE ")
        assert rows(ask(daemon.control, verb="who")) == []
    close(clients)
    assert len(daemon.wait_for_log("^Session ended by the administrator$")) == len(clients) + 1
    assert "control: kick ann" in daemon.lines


def test_rows_of_many_sessions_are_whole_and_bounded(daemon: Daemon) -> None:
    strangers = [Lines.to(daemon.port) for _ in range(450)]
    wait_for(lambda: len(rows(ask(daemon.control, verb="who"))) == 450, "not all are there")
    answer = ask(daemon.control, verb="who")
    assert len(answer) > 3  # several messages of each worker
    few = rows(ask(daemon.control, verb="who", limit=5))
    assert sum("more" in row for row in few) == 2
    assert sum("id" in row for row in few) == 10
    close(strangers)
    wait_for(lambda: not rows(ask(daemon.control, verb="who")), "they stay")


def test_servers_are_up_or_down(daemon: Daemon, dovecot: Dovecot, tmp_path: Path) -> None:
    with log_in(daemon), log_in(daemon):
        mine = [row for row in rows(ask(daemon.control, verb="servers")) if row["sessions"]]
        assert {row["server"] for row in mine} == {f"127.0.0.1:{dovecot.port}"}
        assert sum(row["sessions"] for row in mine) == 2
        assert all(0 < row["latency"] < 5 and row["answers"] for row in mine)
    nobody = free_port()
    options = ("outgoing_server 127.0.0.1", f"outgoing_port {nobody}", "workers 1",
               "failure_delay 0")  # fmt: skip
    with Daemon(tmp_path, *options) as alone, Lines.to(alone.port) as client:
        client.hear()
        client.ask("a LOGIN ann x")
        (row,) = rows(ask(alone.control, verb="servers"))
        assert (row["server"], row["state"]) == (f"127.0.0.1:{nobody}", "down")
        assert row["failures"] == 1
        assert 0 < row["retry"] <= 10


def test_a_drained_server_gets_no_new_sessions(dovecot: Dovecot, tmp_path: Path) -> None:
    first, second = f"127.0.0.1:{dovecot.port}", f"localhost:{dovecot.port}"
    names = tmp_path / "popmap"
    names.write_text(f"ann:{first},{second}\nbob:{first}\n")
    options = (*before(dovecot), "map_library popmap", f"map_library_opt {names}")
    with Daemon(tmp_path / "daemon", *options) as daemon, log_in(daemon) as stays:
        assert ask(daemon.control, verb="drain", server=first)[-1]["late"] == []
        with Lines.to(daemon.port) as bob:
            bob.hear()
            assert bob.ask("a LOGIN bob canary-bob")[-1].startswith("a NO [UNAVAILABLE]")
        for _ in range(2):  # before and after a reload
            with log_in(daemon) as client:
                (row,) = [row for row in rows(ask(daemon.control, verb="who"))
                          if row["client_port"] == client.sock.getsockname()[1]]  # fmt: skip
                assert row["server"] == second
            daemon.reload()
        known = rows(ask(daemon.control, verb="servers"))
        assert {row["state"] for row in known if row["server"] == first} == {"drained"}
        assert ask(daemon.control, verb="status")[0]["status"]["drained"] == [first]
        assert stays.ask("b NOOP")[-1].startswith("b OK")
        (end,) = ask(daemon.control, verb="undrain", server=second)
        assert end["error"] == f"{second} is not drained; drained: {first}"
        assert "error" in ask(daemon.control, verb="drain", server=":143")[-1]
        ask(daemon.control, verb="undrain", server=first)
        with log_in(daemon, "bob"):
            pass


def test_flush_forgets_one_user_or_all(dovecot: Dovecot, folder: Path, tmp_path: Path) -> None:
    asked, program = folder / "asked", folder / "map"
    asked.touch()
    asked.chmod(0o666)  # the worker is nobody
    program.write_text(f"#!/bin/sh\nread key\necho $key >>{asked}\necho 127.0.0.1\n")
    program.chmod(0o755)
    options = (*before(dovecot), "workers 1", "map_library command", f"map_library_opt {program}",
               "map_cache_lifetime 600")  # fmt: skip

    alone = Daemon(tmp_path, *options)

    def lookups(user: str) -> int:
        with log_in(alone, user):
            return asked.read_text().split().count(user)

    with alone:
        assert [lookups("ann"), lookups("ann"), lookups("bob")] == [1, 1, 1]
        assert rows(ask(alone.control, verb="flush", user="ann"))[0]["flushed"] == 1
        assert [lookups("ann"), lookups("bob")] == [2, 1]
        assert rows(ask(alone.control, verb="flush"))[0]["flushed"] == 2
        assert [lookups("ann"), lookups("bob")] == [3, 2]


def test_the_log_level_changes_in_all_processes_until_a_reload(daemon: Daemon) -> None:
    def closings() -> int:
        return len([line for line in daemon.lines if line.startswith("Closing")])

    ask(daemon.control, verb="log_level", level="error")
    assert ask(daemon.control, verb="status")[0]["status"]["log_level"] == "error"
    seen = closings()
    for _ in range(6):
        with log_in(daemon) as client:
            client.ask("b LOGOUT")
    assert closings() == seen
    (end,) = ask(daemon.control, verb="log_level", level="loud")
    assert end["error"] == "level: one of error, notice, info, debug"
    assert ask(daemon.control, verb="reload")[-1]["late"] == []
    with log_in(daemon):
        pass
    wait_for(lambda: closings() > seen, "the level stays")


def test_reload_says_what_is_wrong_with_a_configuration(daemon: Daemon) -> None:
    wait_for(lambda: len(daemon.workers) == 2, "old workers stay")
    workers = daemon.workers
    daemon.write("conection_limit 7")
    (end,) = ask(daemon.control, verb="reload")
    assert "conection_limit: unknown option; did you mean connection_limit?" in end["error"]
    assert end["error"].endswith("the old configuration stays in force")
    assert daemon.workers == workers
    assert ask(daemon.control, verb="status")[0]["status"]["reload_problems"]
    daemon.write()
    assert "error" not in ask(daemon.control, verb="reload")[-1]
    assert ask(daemon.control, verb="status")[0]["status"]["reload_problems"] == []
    wait_for(lambda: len(daemon.workers) == 2, "old workers stay")
    assert set(daemon.workers).isdisjoint(workers)


def test_stop_lets_sessions_end(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot)) as daemon:
        with log_in(daemon) as client:
            assert ask(daemon.control, verb="stop")[-1]["end"]
            daemon.wait_for_log("^Exiting on signal 15$")
            assert ask(daemon.control, verb="status")[0]["status"]["stopping"]
            assert ask(daemon.control, verb="reload")[-1]["error"] == "it is stopping"
            assert client.ask("b NOOP")[-1].startswith("b OK")
        assert daemon.process.wait(10) == 0
        assert not daemon.control.exists()


# -- what may go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b"[" * 5000 + b"\n", "no JSON"),
        (b"[]\n", "one JSON object"),
        (b"{}\n", "one JSON object"),
        (b'{"verb": "dance"}\n', "no such verb"),
        (b'{"verb": ["who"]}\n', "one JSON object"),
        (b'{"verb": "kick"}\n', "match: a text"),
        (b'{"verb": "kick", "match": ""}\n', "match: a text"),
        (b'{"verb": "who", "match": 7}\n', "match: a text"),
        (b'{"verb": "who", "limit": -1}\n', "limit: a number"),
        (b'{"verb": "who", "limit": true}\n', "limit: a number"),
    ],
)
def test_a_bad_request_is_refused(daemon: Daemon, line: bytes, why: str) -> None:
    (end,) = ask_raw(daemon.control, line)
    assert end["end"] and why in end["error"]


def test_a_request_without_end_is_hung_up_on(daemon: Daemon) -> None:
    with pytest.raises(ConnectionResetError):
        ask_raw(daemon.control, b"x" * 20_000)
    assert ask(daemon.control, verb="status")[-1]["late"] == []


def test_callers_that_say_nothing_keep_nobody_waiting(daemon: Daemon) -> None:
    silent = []
    for _ in range(20):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(daemon.control))
    begin = time.monotonic()
    assert ask(daemon.control, verb="status")[-1]["late"] == []
    assert time.monotonic() - begin < 1
    for sock in silent:
        sock.close()


def test_a_worker_that_hangs_is_named_within_the_deadline(daemon: Daemon) -> None:
    first, second = daemon.workers
    os.kill(first, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        with ThreadPoolExecutor() as threads:
            verbs = ["status", "who", "servers"]
            answers = list(threads.map(lambda verb: ask(daemon.control, verb=verb), verbs))
        assert time.monotonic() - begin < 4
        assert [answer[-1]["late"] for answer in answers] == [[first]] * 3
        assert [w["answers"] for w in answers[0][0]["status"]["workers"]] == [False, True]
    finally:
        os.kill(first, signal.SIGCONT)
    wait_for(lambda: ask(daemon.control, verb="status")[-1]["late"] == [], "it stays away")
    assert daemon.workers == [first, second]


def test_a_worker_that_dies_is_not_waited_for(daemon: Daemon) -> None:
    wait_for(lambda: ask(daemon.control, verb="who")[-1]["late"] == [], "a worker is not ready")
    first, _ = daemon.workers
    os.kill(first, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.control))
        sock.sendall(b'{"verb": "who"}\n')
        begin = time.monotonic()
        os.kill(first, signal.SIGKILL)
        # Its successor may be asked already, and not be ready yet.
        assert first not in json.loads(sock.makefile().readlines()[-1])["late"]
        assert time.monotonic() - begin < 1.5
    wait_for(lambda: len(daemon.workers) == 2, "no other worker")

    def replaced() -> bool:
        *_, end = answer = ask(daemon.control, verb="status")
        return end["late"] == [] and bool(answer[0]["status"]["restarts"])

    wait_for(replaced, "the new worker does not answer")


def test_the_last_words_of_a_worker_count(dovecot: Dovecot, tmp_path: Path) -> None:
    """A kick of its last session ends a worker that drains; its answer is heard all the same."""
    with Daemon(tmp_path, *before(dovecot)[:2], "workers 1", "failure_delay 0") as daemon:
        for _ in range(5):
            with log_in(daemon):
                daemon.reload()
                answer = ask(daemon.control, verb="kick", match="ann")
            assert len(rows(answer)) == 1


# -- the socket -----------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_goes_with_the_daemon(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control.sock"))
    with Daemon(tmp_path, *before(dovecot)) as daemon:
        mode = daemon.control.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert ask(daemon.control, verb="status")[-1]["pid"] == daemon.process.pid
        with pytest.raises(AssertionError, match=r"control_socket: .*: Address already in use"):
            Daemon(tmp_path / "other", *before(dovecot), f"control_socket {daemon.control}"
                   ).__enter__()  # fmt: skip
        other = tmp_path / "other.sock"
        daemon.reload(f"control_socket {other}")
        assert not daemon.control.exists()
        assert ask(other, verb="status")[-1]["late"] == []
        daemon.reload("control_socket none")
        assert not other.exists()
        daemon.reload(f"control_socket {other}")
        assert other.exists()
    assert not other.exists()


def test_a_file_that_is_no_socket_is_left_alone(dovecot: Dovecot, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mail")
    daemon = Daemon(tmp_path / "daemon", *before(dovecot), f"control_socket {precious}")
    with pytest.raises(AssertionError, match="control_socket"):
        daemon.__enter__()
    assert precious.read_text() == "mail"
