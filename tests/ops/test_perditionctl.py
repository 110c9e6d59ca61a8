"""perditionctl as an administrator runs it, beside real daemons and a real Dovecot."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

from perdition.ops.control import LEVELS, VERBS, parser
from perdition.ops.tables import plain, size, span, table

USERS = {"ann": "canary-ann", "bob": "canary-bob"}


class Site:
    """Two daemons with their sockets in one folder, before one Dovecot."""

    def __init__(self, dovecot: Dovecot, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        options = ("outgoing_server 127.0.0.1", "workers 2", "failure_delay 0")
        self.imap, self.pop = (
            Daemon(folder / name, *options, f"outgoing_port {port}",
                   f"control_socket {self.run_dir}/{name}.sock", command=f"perdition.{name}")
            for name, port in (("imap4", dovecot.port), ("pop3", dovecot.pop3))
        )  # fmt: skip

    def ctl(self, *words: object, status: int = 0) -> str:
        """Run a command; return what it prints."""
        done = self.run(*words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "perditionctl"), f"--run-dir={self.run_dir}", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)

    def json(self, *words: object) -> list[dict[str, Any]]:
        """What each daemon says, as a program reads it."""
        found: list[dict[str, Any]] = json.loads(self.run("--json", *words).stdout)["daemons"]
        return found


@pytest.fixture(scope="module")
def site(dovecot: Dovecot, folder: Path) -> Iterator[Site]:
    """The daemons, up."""
    found = Site(dovecot, folder)
    with found.imap, found.pop:
        yield found


def imap(site: Site, user: str) -> Lines:
    """An IMAP client that is in."""
    client = Lines.to(site.imap.port)
    client.hear()
    assert " OK " in client.ask(f"a LOGIN {user} {USERS[user]}")[-1]
    return client


def pop(site: Site, user: str) -> Lines:
    """A POP3 client that is in."""
    client = Lines.to(site.pop.port)
    client.hear()
    client.say(f"USER {user}\r\nPASS {USERS[user]}")
    assert [client.hear()[:3], client.hear()[:3]] == ["+OK", "+OK"]
    return client


def test_status_of_all_daemons(site: Site) -> None:
    with imap(site, "ann"), pop(site, "bob"):
        head, first, second = site.ctl("status").splitlines()
        assert head.split()[:4] == ["DAEMON", "PID", "UP", "SESSIONS"]
        assert first.split()[:2] == ["imap4", str(site.imap.process.pid)]
        assert second.split()[:2] == ["pop3", str(site.pop.process.pid)]
        assert [first.split()[3], second.split()[3]] == ["1", "1"]
        assert f"127.0.0.1:{site.pop.port}" in second
    (only,) = site.json("--daemon", "pop3", "status")
    assert only["status"]["protocol"] == "POP3"
    assert only["error"] is None


def test_who_and_kick_cover_all_daemons(site: Site) -> None:
    with imap(site, "ann") as ann, imap(site, "bob") as bob, pop(site, "ann") as pops:
        lines = site.ctl("who").splitlines()
        assert lines[0].split()[:5] == ["DAEMON", "ID", "USER", "CLIENT", "SERVER"]
        assert sorted(line.split()[2] for line in lines[1:]) == ["ann", "ann", "bob"]
        assert len(site.ctl("who", "bob").splitlines()) == 2
        assert "ended: 2" in site.ctl("kick", "ann")
        assert ann.hear() == pops.hear() == ""
        assert bob.ask("b NOOP")[-1].startswith("b OK")
        (row,) = [row for daemon in site.json("who") for row in daemon["rows"]]
        assert row["user"] == "bob"
        site.ctl("kick", row["id"])
        assert bob.hear() == ""
    assert site.ctl("who") == "no sessions\n"
    assert site.ctl("who", "ann", status=1) == "no session of ann\n"
    assert site.ctl("kick", "ann", status=1) == "no session of ann\n"


def test_servers_are_added_up_over_workers(site: Site, dovecot: Dovecot) -> None:
    clients = [imap(site, "ann") for _ in range(8)]
    text = site.ctl("--daemon", "imap4", "servers")
    (line,) = text.splitlines()[1:]
    server, state, retry, sessions, logins, *_, latency, unit = line.split()
    assert (server, state, retry, sessions) == (f"127.0.0.1:{dovecot.port}", "up", "-", "8")
    assert int(logins) >= 8
    assert float(latency) > 0 and unit == "ms"
    for client in clients:
        client.__exit__()


def test_a_server_is_drained_at_all_daemons(site: Site) -> None:
    with imap(site, "ann"), pop(site, "ann"):
        said = site.ctl("drain", "127.0.0.1")
        assert said == "".join(f"perdition.{name}: drained; 1 sessions go on\n"
                               for name in ("imap4", "pop3"))  # fmt: skip
    try:
        assert "drained: 127.0.0.1" in site.ctl("status")
        with Lines.to(site.imap.port) as client:
            client.hear()
            assert " NO [UNAVAILABLE] " in client.ask("a LOGIN ann canary-ann")[-1]
        assert " drained " in site.ctl("servers")
    finally:
        site.ctl("undrain", "127.0.0.1")
    with imap(site, "ann"):
        assert " up " in site.ctl("servers")
    assert "drained; no login has gone to mail9 so far" in site.ctl("drain", "mail9")
    site.ctl("undrain", "mail9")
    assert "not a server" in site.run("drain", "a:b:c").stderr


def test_reload_says_what_is_wrong(site: Site) -> None:
    site.imap.write("conection_limit 7")
    done = site.run("reload")
    site.imap.write()
    assert done.returncode == 1
    assert done.stdout == "perdition.pop3: done\n"
    first, last = done.stderr.splitlines()
    assert re.match(r"perditionctl: perdition.imap4: .*perdition\.conf:\d+: conection_limit", first)
    assert last == "perditionctl: perdition.imap4: the old configuration stays in force"
    assert site.ctl("reload").count("done") == 2
    assert site.ctl("flush") == "".join(
        f"perdition.{name}: 0 answers forgotten\n" for name in ("imap4", "pop3")
    )
    assert site.ctl("log-level", "info").count("done") == 2


def test_a_trace_shows_the_dialogue_and_never_a_password(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "ann.trace"
    try:
        shown = site.ctl("trace", "ann", "--file", file)
        assert shown.splitlines()[0] == "perdition.imap4: traces ann"
        assert file.stat().st_mode & 0o777 == 0o600
        assert site.run("trace", "ann", "--file", file).returncode == 1  # never into another's file
        site.ctl("--daemon", "imap4", "reload")  # new workers trace, too
        with imap(site, "ann") as ann, imap(site, "bob"), pop(site, "ann"):
            ann.ask("b SELECT INBOX")
        with Lines.to(site.imap.port) as client:
            client.hear()
            client.say("a AUTHENTICATE PLAIN")
            client.hear()
            client.say("AGFubgBjYW5hcnktYmFk")  # ann, canary-bad
            assert client.hear().startswith("a NO ")
            client.ask('b LOGIN ann "canary-worse"')
        with Lines.to(site.pop.port) as client:
            client.hear()
            client.say("PASS canary-early")
            assert client.hear().startswith("-ERR")
            client.say("USER ann\r\nPASS canary-pop")
            assert [client.hear()[:3], client.hear()[:4]] == ["+OK", "-ERR"]
        wait_for(lambda: file.read_text().count("-- ends") == 4, file.read_text())
    finally:
        site.ctl("trace", "ann", "--stop")
    text = file.read_text()
    assert not re.search("canary|Y2FuYX|bob|b SELECT", text)
    assert re.search(r'Z perdition.imap4\[\d+\] 127.0.0.1:\d+->\S+ client: "a LOGIN \*\*\*"', text)
    assert re.search(r'perdition.pop3\[\d+\] .* client: "USER ann"', text)
    assert 'perdition: "a OK You are so in"' in text
    assert 'server: "* OK ' in text
    assert "-- ok client-secure=plaintext server=127.0.0.1:" in text
    assert "-- failed: Re-Authentication Failure" in text
    assert re.search("-- ends: received=[1-9][0-9]* sent=[1-9]", text)
    with imap(site, "ann"):
        pass
    assert file.read_text() == text
    assert site.run("trace", "ann", "--seconds", 0, "--file", tmp_path / "b").returncode == 1


def test_a_server_that_repeats_the_password_does_not_get_it_into_a_trace(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        options = ("outgoing_server 127.0.0.1", f"outgoing_port {port}", "failure_delay 0")
        with Daemon(tmp_path / "daemon", *options) as daemon:
            file = tmp_path / "trace"
            words = [f"--socket={daemon.control}", "trace", "ann", f"--file={file}"]
            subprocess.run([BIN / "perditionctl", *words], check=True, capture_output=True)
            with Lines.to(daemon.port) as client:
                client.hear()
                client.say("a LOGIN ann canary-ann")
                with Lines(listening.accept()[0]) as server:
                    server.say("* OK [CAPABILITY IMAP4rev1] hello")
                    server.hear()
                    server.say("flim07 NO not canary-ann")
                    assert client.hear() == "a NO not canary-ann"
            assert 'server: "flim07 NO not ***"' in file.read_text()
            assert "canary" not in file.read_text()


def test_a_name_that_would_move_the_cursor_is_escaped(site: Site) -> None:
    with Lines.to(site.imap.port) as client:
        client.hear()
        client.ask(b'a LOGIN "\x1b[2Jeve\xc2\x9b" x')
        shown = site.ctl("who")
    assert r"\x1b[2Jeve\x9b" in shown
    assert "\x1b" not in shown and "\x9b" not in shown


def test_tables_fit_the_terminal(site: Site) -> None:
    with imap(site, "ann"), pop(site, "ann"):
        ids = [row["id"] for daemon in site.json("who") for row in daemon["rows"]]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv("/bin/sh", ["sh", "-c", f"stty cols 60; exec {BIN}/perditionctl "
                     f"--run-dir {site.run_dir} who"])  # fmt: skip
        shown = b""
        try:
            while data := os.read(terminal, 4096):
                shown += data
        except OSError:
            pass  # so Linux says that the other end is gone
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = shown.decode().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].split()[0] == "DAEMON"
    assert "…" in lines[1]
    assert {line.split()[1] for line in lines[1:]} == set(ids), "what is cut can't be kicked"


def test_exit_status_says_what_is_wrong(site: Site, tmp_path: Path) -> None:
    alone = subprocess.run([BIN / "perditionctl"], capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "Have the running daemons become the version" in re.sub(r"\s+", " ", alone.stderr)
    nobody = subprocess.run(
        [BIN / "perditionctl", "--run-dir", tmp_path, "status"], capture_output=True, check=False
    )
    assert nobody.returncode == 3
    assert b"no daemon answers at" in nobody.stderr
    assert site.run("--daemon", "imaps", "status").returncode == 3
    assert site.run("dance").returncode == 2
    first = site.imap.workers[0]
    os.kill(first, signal.SIGSTOP)
    try:
        done = site.run("who")
    finally:
        os.kill(first, signal.SIGCONT)
    assert done.returncode == 1
    assert f"perdition.imap4: worker [{first}] does not answer" in done.stderr


def test_a_daemon_that_hangs_takes_nothing_from_the_others(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind, socket.socket(socket.AF_UNIX) as hung:
        left_behind.bind(str(tmp_path / "left.sock"))
        hung.bind(str(tmp_path / "hung.sock"))
        hung.listen()
        (tmp_path / "imap.sock").symlink_to(site.imap.control.with_name("none"))
        options = [f"--socket={site.run_dir}/pop3.sock"]
        options += [f"--socket={path}" for path in tmp_path.iterdir()]
        done = site.run("--wait", "1", *options, "status")
    assert done.returncode == 1
    assert "\npop3 " in done.stdout
    assert done.stderr == "perditionctl: hung.sock: no answer within 1 s\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nobody_else_may_ask(site: Site, need: Callable[[str], str]) -> None:
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('{site.run_dir}/imap4.sock')"
    words = [need("setpriv"), "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr


def test_numbers_and_texts_of_tables() -> None:
    assert [span(n) for n in (None, 0, 59, 60, 3661, 90_000)] == [
        "-", "0s", "59s", "1m", "1h1m", "1d1h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1000, 12_345_678)] == ["0", "999", "1.0k", "12.3M"]
    assert plain("a\r\nb") == r"a\r\nb"
    assert table(("A", "B"), [("x" * 40, 7)], 20) == ["A" + " " * 18 + "B", "x" * 16 + "…  7"]
    assert table(("A", "B"), [("x" * 40, 7)], 20, "A") == ["A", "x" * 40]


def test_a_reader_that_has_seen_enough_is_no_error(site: Site) -> None:
    command = f"{BIN}/perditionctl --run-dir {site.run_dir} --json status | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def completed(*words: str) -> list[str]:
    """What bash offers behind these words, the last of them begun."""
    file = ROOT / "share/bash-completion/completions/perditionctl"
    script = (
        f'. {file}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _perditionctl; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, "bash", "perditionctl", *words],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_every_verb_and_option() -> None:
    options = [each for action in parser()._actions for each in action.option_strings]
    offered = completed("")
    assert set(VERBS) <= set(offered)
    assert {each for each in options if each.startswith("--")} <= set(offered)
    assert completed("--run-dir", "/tmp", "se") == ["servers"]
    assert completed("log-level", "") == [*LEVELS, "--json"]


def test_the_man_page_names_every_verb_and_option(need: Callable[[str], str]) -> None:
    page = ROOT / "share/man/man1/perditionctl.1"
    done = subprocess.run([need("groff"), "-man", "-ww", "-Tascii", "-P-c", page],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)
    for name, verb in VERBS.items():
        assert re.search(rf"^ +{name}( {'.*'.join(word.name.upper() for word in verb.words)}|$)",
                         text.replace("[", "").replace("]", ""), re.MULTILINE), name  # fmt: skip
    for action in parser()._actions:
        for each in action.option_strings:
            assert each in text


def test_every_command_of_the_page_is_one() -> None:
    page = (ROOT / "docs/operate.md").read_text()
    commands = re.findall(r"^    (?:# )?perditionctl (.*)$", page, re.MULTILINE)
    for command in commands:
        parser().parse_args(command.split())
    assert {command.split()[0] for command in commands} == set(VERBS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write to /run")
def test_a_daemon_is_found_without_a_word_about_sockets(dovecot: Dovecot, tmp_path: Path) -> None:
    options = ("outgoing_server 127.0.0.1", f"outgoing_port {dovecot.port}", "control_socket ''")
    with Daemon(tmp_path, *options) as daemon:
        path = Path(f"/run/perdition/perdition.imap4.{daemon.process.pid}.sock")
        assert path.is_socket()
        done = subprocess.run([BIN / "perditionctl", "--daemon", "imap4", "status"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert str(daemon.process.pid) in done.stdout
    assert not path.exists()
