"""No password leaves the login: not into a log at any level, a trace, a title, or a core."""

from __future__ import annotations

import base64
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

from perdition.log import DescriptorTarget, Log

SECRET = "canary-7f3a"
WRONG = "canary-wrong"
LEVELS = {
    "quiet": ("quiet",),
    "normal": (),
    "debug": ("debug", "connection_logging"),
    "json": ("debug", "connection_logging", "log_format json"),
    "notice": (),
    "failing passwords only": ("log_passwd fail", "connection_logging"),  # without debug: none
}


def plain(word: str) -> str:
    return base64.b64encode(b"\0ann\0" + word.encode()).decode()


def encoded(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


# What a client sends, in each protocol, with one password: all of it is answered.
DIALOGUES: dict[str, Callable[[str], list[str]]] = {
    "imap4": lambda word: [
        f"a LOGIN ann {word}x extra\r\n", f"b LOGIN ann {word}\r\n", f'c LOGIN "ann" "{word}\r\n',
        f"d AUTHENTICATE PLAIN\r\n{plain(word)}\r\n", f"e AUTHENTICATE PLAIN {plain(word)}=\r\n",
        f"f AUTHENTICATE LOGIN\r\n{encoded('ann')}\r\n{encoded(word)}\r\n",
        f"g NOSUCH {word}\r\n{word}\r\nh LOGIN ann {{{len(word)}+}}\r\n{word}\r\n",
        f"i AUTHENTICATE CRAM-MD5 {plain(word)}\r\n{plain(word)}\r\n",
    ],
    "pop3": lambda word: [
        f"PASS {word}\r\n", f"USER ann\r\nPASS {word}\r\n", f"AUTH PLAIN {plain(word)}\r\n",
        f"AUTH LOGIN\r\n{encoded('ann')}\r\n{encoded(word)}\r\n", f"APOP ann {word}\r\n",
    ],
    "managesieve": lambda word: [
        f'AUTHENTICATE "PLAIN" "{plain(word)}"\r\n', f'NOSUCH "{word}"\r\n',
        f'AUTHENTICATE "LOGIN"\r\n"{encoded("ann")}"\r\n"{encoded(word)}"\r\n',
        f'AUTHENTICATE "PLAIN" {{{len(plain(word))}+}}\r\n{plain(word)}\r\n',
    ],
}  # fmt: skip


def forbidden() -> list[str]:
    """The passwords in every form in which they went over the wire."""
    return [form(word) for word in (SECRET, WRONG) for form in (str, plain, encoded)]


@pytest.fixture(scope="module")
def dovecot(folder: Path, need: Callable[[str], str]) -> Iterator[Dovecot]:
    """Dovecot with one user."""
    with Dovecot(need("dovecot"), folder / "dovecot", {"ann": SECRET}) as server:
        yield server


# The grammars are one by one where they can say most, the levels with the one that says most.
RUNS = [("imap4", level) for level in LEVELS] + [("pop3", "debug"), ("managesieve", "debug")]


@pytest.mark.parametrize(("protocol", "level"), RUNS)
def test_no_password_in_a_log_trace_or_title(
    dovecot: Dovecot, tmp_path: Path, protocol: str, level: str
) -> None:
    port = {"imap4": dovecot.port, "pop3": dovecot.pop3, "managesieve": dovecot.sieve}[protocol]
    options = ("outgoing_server 127.0.0.1", f"outgoing_port {port}", "workers 1", "failure_delay 0",
               "bad_command_limit 0", "failed_login_limit 0", *LEVELS[level])  # fmt: skip
    trace = tmp_path / "trace"
    with Daemon(tmp_path, *options, command=f"perdition.{protocol}") as daemon:
        ctl = [str(BIN / "perditionctl"), f"--socket={daemon.control}"]
        subprocess.run(
            [*ctl, "trace", "ann", "--file", str(trace)], check=True, capture_output=True
        )
        if level == "notice":
            subprocess.run([*ctl, "log-level", level], check=True, capture_output=True)
        for word in (WRONG, SECRET):
            for text in DIALOGUES[protocol](word):
                with Lines.to(daemon.port) as client:
                    client.hear()
                    client.say(text.removesuffix("\r\n"))
                    client.hear()
        titles = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in daemon.workers]
        assert titles
        assert titles[0].startswith(f"perdition.{protocol}: worker 1".encode())
        daemon.process.terminate()
        assert daemon.process.wait(10) == 0
        said = daemon.log.read_bytes() + b"".join(titles) + trace.read_bytes()
        assert daemon.process.stdout is not None
        said += daemon.process.stdout.read()
    assert b"-- login of ['ann']" in trace.read_bytes()
    if level != "quiet":
        assert b"Auth: " in said, "the logins have come as far as a verdict"
        assert b'status="ok"' in said or b'status=\\"ok\\"' in said
    for word in forbidden():
        assert word.encode() not in said


def core_limits(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def test_no_core_unless_it_is_asked_for(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if most == 0:
        pytest.skip("cores are forbidden here anyway")
    options = ("outgoing_server 127.0.0.1", "workers 1")
    with Daemon(tmp_path / "p", *options) as daemon:
        (worker,) = daemon.workers
        assert core_limits(worker) == core_limits(daemon.process.pid) == ["0", "0"]
        before = set(Path("/").iterdir())
        os.kill(worker, signal.SIGSEGV)
        daemon.wait_for_log(rf"worker 1 \[{worker}\] ended with signal 11")
        assert set(Path("/").glob("core*")) <= before
        wait_for(lambda: daemon.workers not in ([], [worker]), "no other worker")
    with Daemon(tmp_path / "q", *options, "core_dumps") as daemon:
        (worker,) = daemon.workers
        unlimited = "unlimited" if most == resource.RLIM_INFINITY else str(most)
        assert core_limits(worker) == [unlimited, unlimited]


@pytest.mark.skipif(os.geteuid() != 0, reason="what is whose is clear to root only")
@pytest.mark.parametrize(("option", "owner"), [("quiet", 0), ("core_dumps", 65534)])
def test_a_workers_memory_is_closed_to_its_user(tmp_path: Path, option: str, owner: int) -> None:
    tmp_path.chmod(0o755)
    with Daemon(tmp_path / "p", "outgoing_server 127.0.0.1", "workers 1", option) as daemon:
        (worker,) = daemon.workers
        assert os.stat(f"/proc/{worker}/mem").st_uid == owner


def test_files_are_for_their_owner_unless_they_are_meant_to_be_read(tmp_path: Path) -> None:
    with Daemon(tmp_path / "p", "outgoing_server 127.0.0.1", "workers 1") as daemon:
        assert daemon.log.stat().st_mode & 0o777 == 0o640
        assert daemon.pid_file.stat().st_mode & 0o777 == 0o644
        for pid in (daemon.process.pid, *daemon.workers):
            assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()


def test_a_fault_of_the_program_tells_no_value(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(DescriptorTarget(os.open(path, os.O_WRONLY | os.O_CREAT)), "x", debug=True)
    try:
        raise ValueError(f"invalid literal: {SECRET}")
    except ValueError as error:
        log.fault("callback", error)
    log.target.close()
    assert "internal error (callback): ValueError in test_secrets.py:" in path.read_text()
    assert SECRET not in path.read_text()
