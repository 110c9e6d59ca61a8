"""One daemon with one worker before a real Dovecot, or a server that misbehaves on purpose."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port, listens, wait_for

USERS = {"ann": "canary-ann", "bob": "canary-bob"}


def before(server: Dovecot | int, *options: str, workers: int = 1) -> tuple[str, ...]:
    """The options that put a daemon before a server."""
    port = server.port if isinstance(server, Dovecot) else server
    return ("outgoing_server 127.0.0.1", f"outgoing_port {port}", f"workers {workers}",
            "failure_delay 0", *options)  # fmt: skip


def log_in(port: int, user: str = "ann") -> Lines:
    """A client that is in."""
    client = Lines.to(port)
    assert client.hear().startswith("* OK ")
    assert client.ask(f"a LOGIN {user} {USERS[user]}")[-1] == "a OK You are so in"
    return client


class Silent:
    """A server that takes connections and says only what the test says."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(10)
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def accept(self) -> Lines:
        """Take the next connection."""
        return Lines(self._listening.accept()[0])


# -- one session ----------------------------------------------------------------------------


def test_a_refused_login_may_be_tried_again_and_again_later(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    options = before(dovecot, "connect_timeout 1", "greeting_timeout 1", "login_timeout 1")
    with Daemon(tmp_path, *options) as daemon, Lines.to(daemon.port) as client:
        client.hear()
        answer = client.ask("a LOGIN ann wrong")[-1]
        assert answer.startswith("a NO [AUTHENTICATIONFAILED] ")
        time.sleep(2.5)  # longer than any step of the attempt that is over
        assert client.ask("b LOGIN ann canary-ann")[-1] == "b OK You are so in"
        assert client.ask("c LOGOUT")[-1].startswith("c OK ")


def test_pipelined_commands_reach_the_server(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot)) as daemon, Lines.to(daemon.port) as client:
        client.say("a NOOP\r\nb LOGIN {3+}\r\nann {10}")
        assert client.hear().startswith("* OK ")
        assert client.hear() == "a OK NOOP"
        assert client.hear().startswith("+ ")
        client.say("canary-ann\r\nc SELECT INBOX\r\nd LOGOUT")
        said = client.rest().decode()
        assert re.search(r"^b OK You are so in\r\n.*^c OK .*^d OK ", said, re.DOTALL | re.MULTILINE)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    port = free_port()
    with Daemon(tmp_path, *before(port)) as daemon, Lines.to(daemon.port) as client:
        client.hear()
        answer = client.ask("a LOGIN ann canary-ann")
        assert answer == ["a NO [UNAVAILABLE] failed: Could not connect to server"]
        assert daemon.wait_for_log(
            f'server="127.0.0.1:{port}" protocol=IMAP4 server-secure=plaintext '
            'status="failed: Could not connect to server"'
        )


def test_a_server_that_accepts_and_is_silent(tmp_path: Path) -> None:
    with Silent() as server:
        options = before(server.port, "connect_timeout 1", "greeting_timeout 2")
        with Daemon(tmp_path, *options) as daemon, Lines.to(daemon.port) as client:
            client.hear()
            begin = time.monotonic()
            answer = client.ask("a LOGIN ann canary-ann")
            assert answer == ["a NO [UNAVAILABLE] failed: Connection Negotiation Failure"]
            assert 1.5 < time.monotonic() - begin < 5
            daemon.wait_for_log('status="failed: Connection Negotiation Failure"')


def test_a_server_that_never_answers_the_login(tmp_path: Path) -> None:
    with Silent() as server:
        options = before(server.port, "connect_timeout 1", "greeting_timeout 2", "login_timeout 3")
        with Daemon(tmp_path, *options) as daemon, Lines.to(daemon.port) as client:
            client.hear()
            client.say("a LOGIN ann canary-ann")
            begin = time.monotonic()
            with server.accept() as seen:
                seen.say("* OK [CAPABILITY IMAP4rev1] at your service")
                assert seen.hear() == 'flim07 LOGIN "ann" "canary-ann"'
                assert client.hear().startswith("a NO [UNAVAILABLE] ")
            assert 2.5 < time.monotonic() - begin < 6


def test_a_server_that_speaks_nonsense(tmp_path: Path) -> None:
    with Silent() as server, Daemon(tmp_path, *before(server.port)) as daemon:
        for nonsense in ("220 smtp.example.org ESMTP", "* OK hello\r\n* OK hello", "\0\xff" * 100,
                         "x" * 70_000):  # fmt: skip
            with Lines.to(daemon.port) as client:
                client.hear()
                client.say("a LOGIN ann canary-ann")
                with server.accept() as seen:
                    seen.say(nonsense)
                    if nonsense.startswith("* OK"):
                        seen.hear()
                        seen.say("other99 OK what?")
                    assert client.hear().startswith("a NO [UNAVAILABLE] ")
        assert not [line for line in daemon.lines if "internal error" in line]


def test_a_client_that_does_not_log_in(tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(1, "authenticate_timeout 1")) as daemon:
        with Lines.to(daemon.port) as client:
            client.hear()
            client.say("a NOOP")
            assert client.hear() == "a OK NOOP"
            assert client.hear().startswith("* BYE ")
            assert client.hear() == ""
        assert daemon.wait_for_log(
            r"^Fatal Error: Timeout reading authentication information from client "
            r"127\.0\.0\.1:\d+->127\.0\.0\.1:\d+: Exiting child$"
        )


def test_a_login_that_begins_late_has_its_deadlines(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Daemon(tmp_path, *before(silent.getsockname()[1], "login_timeout 1")) as daemon,
        Lines.to(daemon.port) as client,
    ):
        client.hear()
        time.sleep(2.5)  # it has been asked once, when nothing but authenticate_timeout was ahead
        begin = time.monotonic()
        client.say("a LOGIN ann secret")
        assert client.hear().startswith("a NO ")
        assert 1 < time.monotonic() - begin < 5


def test_an_idle_session_ends(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot, "timeout 3")) as daemon, log_in(daemon.port) as client:
        for _ in range(4):
            time.sleep(1)
            client.ask("b NOOP")  # traffic puts it off
        begin = time.monotonic()
        assert client.hear() == ""
        assert 2 < time.monotonic() - begin < 8
        daemon.wait_for_log("^Timeout piping data.$")
        assert daemon.wait_for_log("^Closing session")


def test_the_shortest_limit_may_be_that_of_an_idle_session(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    long = "connect_timeout 60", "login_timeout 60", "authenticate_timeout 60"
    with Daemon(tmp_path, *before(dovecot, "timeout 1", *long)) as daemon:
        with log_in(daemon.port) as client:
            begin = time.monotonic()
            assert client.hear() == ""
        assert time.monotonic() - begin < 6


def test_connect_relog_says_who_is_there(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot, "connect_relog 1")) as daemon, log_in(daemon.port):
        lines = daemon.wait_for_log("^Auth: ", 3)
        assert len(set(lines)) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_goes_while_its_login_is_under_way(tmp_path: Path, end: str) -> None:
    with Silent() as server, Daemon(tmp_path, *before(server.port)) as daemon:
        client = Lines.to(daemon.port)
        client.hear()
        client.say("a LOGIN ann canary-ann")
        with server.accept() as seen:
            if end == "reset":
                linger = b"\1\0\0\0\0\0\0\0"  # struct linger: on, no seconds
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            with client:
                pass
            if end == "reset":
                assert seen.rest() == b""  # the login ended with the client
            else:
                seen.say("* OK [CAPABILITY IMAP4rev1] at your service")
                seen.hear()
                seen.say("flim07 NO no")
                seen.rest()
        daemon.wait_for_log("^Closing NULL session")
        assert not [line for line in daemon.lines if "internal error" in line]


def test_connection_logging_shows_the_dialogue_but_no_secret(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    with Daemon(tmp_path, *before(dovecot, "connection_logging", "debug")) as daemon:
        with log_in(daemon.port) as client:
            client.ask("b LOGOUT")
        with Lines.to(daemon.port) as client:
            client.hear()
            assert client.ask("a AUTHENTICATE PLAIN AGJvYgBjYW5hcnktYm9i")[-1].startswith("a OK")
        daemon.wait_for_log("^Closing", 2)
        assert daemon.wait_for_log(r'^SELF: "\* OK ')
        assert daemon.wait_for_log(r'^CLIENT: "a LOGIN \*\*\*"')
        assert daemon.wait_for_log(r'^REAL: "\* OK ')
        assert "canary" not in daemon.log.read_text()
        assert "AGJvYg" not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("mode", "ok", "fail"),
    [("never", False, False), ("fail", False, True), ("ok", True, False), ("always", True, True)],
)
def test_passwords_are_logged_only_as_the_administrator_says(
    dovecot: Dovecot, tmp_path: Path, mode: str, ok: bool, fail: bool
) -> None:
    with Daemon(tmp_path, *before(dovecot, f"log_passwd {mode}", "debug")) as daemon:
        with Lines.to(daemon.port) as client:
            client.hear()
            client.ask("a LOGIN ann canary-bad")
            client.ask("a LOGIN ann canary-ann")
        daemon.wait_for_log("^Closing")
        text = daemon.log.read_text()
        assert ('passwd="canary-ann"' in text, 'passwd="canary-bad"' in text) == (ok, fail)
        assert text.count("canary") == ok + fail


def test_json_lines(dovecot: Dovecot, tmp_path: Path) -> None:
    import json  # noqa: PLC0415

    with Daemon(tmp_path, *before(dovecot, "log_format json")) as daemon:
        with log_in(daemon.port) as client:
            client.ask("b LOGOUT")
        wait_for(lambda: '"event": "close"' in daemon.log.read_text(), "no close")
        records = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        events = {record["event"]: record for record in records if "event" in record}
        assert events["auth"]["authentication_id"] == "ann"
        assert events["auth"]["status"] == "ok"
        assert events["connect"]["client"] == "127.0.0.1"
        assert events["close"]["received"] > 0
        assert all(record["ident"] == "perdition.imap4" for record in records)


# -- the daemon -----------------------------------------------------------------------------


def test_sigterm_lets_sessions_end(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot, workers=2)) as daemon:
        assert daemon.pid_file.read_text() == str(daemon.process.pid)
        with log_in(daemon.port) as client:
            daemon.process.terminate()
            wait_for(lambda: not listens(daemon.port), "it still listens")
            assert client.ask("b NOOP")[-1].startswith("b OK")
            client.ask("c LOGOUT")
        assert daemon.process.wait(10) == 0
        assert not daemon.pid_file.exists()
        assert "Exiting on signal 15" in daemon.lines


def test_sigterm_is_bounded(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot, "shutdown_timeout 1")) as daemon:
        with log_in(daemon.port) as client, Lines.to(daemon.port) as waiting:
            assert waiting.hear().startswith("* OK ")
            daemon.process.terminate()
            assert client.hear() == ""
            assert waiting.hear() == "* BYE [UNAVAILABLE] Perdition is shutting down"
        assert daemon.process.wait(10) == 0


def test_a_reload_is_a_new_generation(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot)) as daemon:
        (old,) = daemon.workers
        with log_in(daemon.port) as client:
            daemon.reload("ok_line Welcome back")
            with Lines.to(daemon.port) as other:
                other.hear()
                assert other.ask("a LOGIN bob canary-bob")[-1] == "a OK Welcome back"
            assert len(daemon.workers) == 2
            assert old in daemon.workers
            assert client.ask("b NOOP")[-1].startswith("b OK")
            client.ask("c LOGOUT")
        wait_for(lambda: old not in daemon.workers, "the old worker stays")
        assert len(daemon.workers) == 1


def test_a_bad_configuration_changes_nothing(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot)) as daemon:
        workers = daemon.workers
        daemon.write("conection_limit 7")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("^reload failed: the old configuration stays in force$")
        assert daemon.wait_for_log(r"perdition\.conf:\d+: .*conection_limit.*connection_limit")
        assert daemon.workers == workers
        with log_in(daemon.port) as client:
            client.ask("b LOGOUT")


def test_a_reload_reopens_the_log(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot)) as daemon:
        client = log_in(daemon.port)
        rotated = tmp_path / "log.1"
        daemon.log.rename(rotated)
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: daemon.log.exists() and "Reloaded" in daemon.log.read_text(), "no new log")
        with client:
            client.ask("b LOGOUT")  # a session of the old generation writes to the new file, too
        daemon.wait_for_log("^Closing session")
        assert "Closing session" not in rotated.read_text()


def test_a_killed_worker_loses_its_own_sessions_only(dovecot: Dovecot, tmp_path: Path) -> None:
    # core_dumps lets an ordinary user look into the worker, too.
    options = before(dovecot, "connection_limit 12", "core_dumps", workers=2)
    with Daemon(tmp_path, *options) as daemon:
        clients = [log_in(daemon.port) for _ in range(12)]
        first, second = daemon.workers
        held = {pid: worker_sessions(pid) for pid in (first, second)}
        assert sum(held.values()) == 12
        os.kill(first, signal.SIGKILL)
        daemon.wait_for_log(rf"ended with signal 9, {held[first]} sessions lost: starting another")
        alive = 0
        for client in clients:
            try:
                alive += client.ask("b NOOP")[-1].startswith("b OK")
            except OSError:
                pass  # reset: it was the dead one's
        assert alive == held[second]
        wait_for(lambda: len(daemon.workers) == 2, "no other worker")
        more = [log_in(daemon.port) for _ in range(held[first])]  # the limit was given back
        with Lines.to(daemon.port) as one_too_many:
            assert one_too_many.hear().startswith("* BYE [UNAVAILABLE] ")
        for client in (*clients, *more):
            client.__exit__()


def worker_sessions(pid: int) -> int:
    """How many relays a worker holds: two sockets each, beside what it listens on."""
    connected = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01":
            connected.add(f"socket:[{fields[9]}]")
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        links.append(os.readlink(entry))
    return len([link for link in links if link in connected]) // 2


def test_the_limit_is_exact_over_all_workers(dovecot: Dovecot, tmp_path: Path) -> None:
    options = before(dovecot, "connection_limit 5", workers=3)
    with Daemon(tmp_path, *options) as daemon:
        clients = [Lines.to(daemon.port) for _ in range(15)]
        greetings = [client.hear() for client in clients]
        welcome = [greeting for greeting in greetings if greeting.startswith("* OK ")]
        assert len(welcome) == 5
        refused = "* BYE [UNAVAILABLE] Too many connections, try again later"
        assert greetings.count(refused) == 10
        for client in clients:
            client.__exit__()
        daemon.wait_for_log("^Closing NULL session", 5)
        again = [Lines.to(daemon.port) for _ in range(5)]
        assert all(client.hear().startswith("* OK ") for client in again)
        for client in again:
            client.__exit__()


def test_descriptors_run_out_and_come_back(dovecot: Dovecot, tmp_path: Path) -> None:
    with Daemon(tmp_path, *before(dovecot), files=40) as daemon:
        clients = [Lines.to(daemon.port) for _ in range(50)]
        daemon.wait_for_log("^can't accept clients for 1 s: Too many open files$")
        for client in clients[:40]:
            client.__exit__()
        for client in clients[40:]:  # served as soon as there is room
            assert client.hear().startswith("* OK ")
            client.__exit__()
        assert "internal error" not in daemon.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_privileges_are_gone(dovecot: Dovecot, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Daemon(tmp_path, *before(dovecot, "username nobody", "group nogroup")) as daemon:
        (worker,) = daemon.workers
        status = Path(f"/proc/{worker}/status").read_text()
        assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
        assert re.search(r"^Gid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
        assert re.search(r"^Groups:\t65534 $", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0{16}$", status, re.MULTILINE)
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
        assert title.startswith(b"perdition.imap4: worker 1")


def test_inetd_mode(dovecot: Dovecot, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, *before(dovecot))
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [BIN / "perdition.imap4", "--config_file", daemon.config, "--inetd_mode"],
        stdin=theirs.fileno(), stdout=theirs.fileno(),
    )  # fmt: skip
    theirs.close()
    with Lines(ours) as client:
        assert client.hear().startswith("* OK ")
        assert client.ask("a LOGIN ann canary-ann")[-1] == "a OK You are so in"
        client.ask("b LOGOUT")
    assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("conection_limit 3",), "conection_limit"),
        (("username nosuchuser",), "username: no such user: 'nosuchuser'"),
        (("group nosuchgroup",), "group: no such group: 'nosuchgroup'"),
        (("ssl_mode ssl_listen", "ssl_cert_file /nowhere/c.pem"), "/nowhere/c.pem"),
    ],
)
def test_a_start_that_fails_says_why(
    tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    daemon = Daemon(tmp_path, "outgoing_server 127.0.0.1", *options)
    done = subprocess.run(
        [BIN / "perdition.imap4", "--config_file", daemon.config],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    assert done.returncode == 255
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not listens(daemon.port)


def test_a_worker_that_can_not_start_ends_the_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "outgoing_server 127.0.0.1", "workers 1")
    done = subprocess.run(
        ["prlimit", "--nofile=12:12", BIN / "perdition.imap4", "--config_file", daemon.config],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    assert done.returncode == 255
    assert "worker 1 failed: OSError: [Errno 24] Too many open files" in done.stderr
    assert "Traceback" not in done.stderr
    assert not daemon.pid_file.exists()


def test_the_log_of_a_client_over_ipv6(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "outgoing_server 127.0.0.1", "outgoing_port 1", "bind_address ::1")
    with daemon, Lines(socket.create_connection(("::1", daemon.port))) as client:
        client.hear()
        daemon.wait_for_log(rf"^Connect:  ::1:\d+->::1:{daemon.port}$")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with Silent() as server:
        daemon = Daemon(tmp_path, "outgoing_server 127.0.0.1", f"listen_port {server.port}")
        done = subprocess.run(
            [BIN / "perdition.imap4", "--config_file", daemon.config],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
        assert done.returncode == 255
        assert f"127.0.0.1:{server.port}" in done.stderr
        assert "address already in use" in done.stderr
