"""perdition-service with real daemons: every verb, what goes wrong, and what systemd is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.ports import end, free_port, listens, wait_for

BIN = Path(sys.executable).parent


class Host:
    """A host with IMAP4 and POP3 chosen, or what a test makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.bin = BIN
        self.ports = {"imap4": free_port(), "imaps": free_port()}
        self.flags = "--outgoing_server 127.0.0.1 --bind_address 127.0.0.1 --workers 1 -n"
        self.write(IMAP4="yes")

    def write(self, flags: str = "", **lines: str) -> None:
        """Write the defaults file: chosen daemons, and more words for all."""
        chosen = {"POP3": "no", "POP3S": "no", "IMAP4": "no", "IMAP4S": "no", "MANAGESIEVE": "no"}
        settings = {"RUN_PERDITION": "yes", **chosen, **lines}
        log = self.folder / "log"
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        text += f'FLAGS="{self.flags} --log_facility {log} {flags}"\n'
        own = {name: f"-l {port} --control_socket {self.folder}/{name}.sock"
               for name, port in self.ports.items()}  # fmt: skip
        text += f"IMAP4_FLAGS='{own['imap4']}'\n"
        if "IMAP4S_FLAGS" not in lines:
            text += f"IMAP4S_FLAGS='{own['imaps']} --ssl_mode none'\n"
        (self.folder / "defaults").write_text(text)

    def command(self, *words: str) -> list[str]:
        return [str(self.bin / "perdition-service"), "--defaults", str(self.folder / "defaults"),
                "--run-dir", str(self.run_dir), *words]  # fmt: skip

    def __call__(self, *words: str) -> tuple[int, str]:
        """Run a verb; return its status and all that it said."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=15
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def pid(self, name: str) -> int:
        """The number in the file; 0 while there is none yet."""
        path = self.run_dir / f"perdition.{name}.pid"
        return int((path.read_text() if path.exists() else "") or 0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.write()
    host("stop")
    assert not [port for port in host.ports.values() if listens(port)]


def test_start_status_stop(host: Host) -> None:
    assert host("status")[0] == 3
    status, said = host("start")
    assert (status, said) == (0, f"perdition.imap4: started (pid {host.pid('imap4')})\n")
    assert listens(host.ports["imap4"])
    status, said = host("status")
    assert status == 0
    assert f"perdition.imap4: running, pid {host.pid('imap4')}, listens on 127.0.0.1:" in said
    assert "perdition.imaps: not running, not chosen" in said
    status, said = host("start")
    assert status == 0
    assert "already running" in said
    pid = host.pid("imap4")
    assert host("stop") == (0, f"perdition.imap4: stopped (pid {pid})\n")
    assert not listens(host.ports["imap4"])
    assert not (host.run_dir / "perdition.imap4.pid").exists()
    assert host("stop")[0] == 0


def test_two_daemons_with_words_of_their_own(host: Host) -> None:
    host.write(IMAP4="yes", IMAP4S="yes")
    assert host("start")[0] == 0
    assert listens(host.ports["imap4"])
    assert listens(host.ports["imaps"])
    first = host.pid("imap4")
    status, said = host("restart", "imaps")
    assert status == 0
    assert "imap4:" not in said
    assert host.pid("imap4") == first
    assert host("stop", "perdition.imaps")[0] == 0
    assert (listens(host.ports["imap4"]), listens(host.ports["imaps"])) == (True, False)
    assert host("status")[0] == 3  # one of the chosen does not run


def test_reload_reaches_the_daemon(host: Host) -> None:
    assert host("reload")[0] == 7
    assert host("start")[0] == 0
    assert host("reload") == (0, f"perdition.imap4: told to reload (pid {host.pid('imap4')})\n")
    wait_for(lambda: "Reloaded" in (host.folder / "log").read_text(), "no reload")


def test_a_daemon_that_can_not_start_is_named(host: Host) -> None:
    host.write("--no_such_option", IMAP4="yes")
    status, said = host("start")
    assert status == 1
    assert "no_such_option" in said
    assert "perdition.imap4: not started: exit status 255" in said
    host.write("--no_daemon", IMAP4="yes")
    status, said = host("start")
    assert status == 1
    assert "perdition-service run" in said


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("IMAP5=yes", "unknown name: IMAP5; did you mean IMAP4?"),
        ("POP3=yse", "POP3: neither yes nor no: 'yse'; did you mean yes?"),
        ("FLAGS=$(cat /etc/passwd)", "is not understood here"),
        ('FLAGS="open', 'the quote " is not closed'),
        (". /etc/other", "not an assignment"),
    ],
)
def test_a_file_that_can_not_be_understood(host: Host, line: str, complaint: str) -> None:
    path = host.folder / "defaults"
    path.write_text(f"RUN_PERDITION=yes\n{line}\n")
    status, said = host("start")
    assert status == 6
    assert f"{path}:2: " in said
    assert complaint in said


def test_nothing_runs_unless_it_is_said(host: Host) -> None:
    host.write(IMAP4="yes", RUN_PERDITION="no")
    status, said = host("start")
    assert status == 0
    assert "RUN_PERDITION is not yes" in said
    assert not listens(host.ports["imap4"])


def test_a_pid_file_that_lies_harms_nobody(host: Host) -> None:
    host.run_dir.mkdir()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        pid_file = host.run_dir / "perdition.imap4.pid"
        for content in (str(bystander.pid), "1", "0", "-1", "99999999999", "nonsense", ""):
            pid_file.write_text(content)
            assert host("stop")[0] == 0
            assert bystander.poll() is None
        pid_file.write_text(str(bystander.pid))
        assert host("start")[0] == 0
        assert host.pid("imap4") != bystander.pid
        bystander.kill()


def test_a_pid_file_that_was_left_behind_is_no_hindrance(host: Host) -> None:
    host.run_dir.mkdir()
    with subprocess.Popen(["true"]) as ended:
        pass
    pid_file = host.run_dir / "perdition.imap4.pid"
    pid_file.write_text(str(ended.pid))
    assert host("status")[0] == 3
    assert host("reload")[0] == 7
    assert host("start")[0] == 0
    assert int(pid_file.read_text()) != ended.pid


def test_a_daemon_that_does_not_end_is_killed(host: Host) -> None:
    assert host("start")[0] == 0
    pid = host.pid("imap4")
    os.kill(pid, signal.SIGSTOP)
    status, said = host("--wait", "0.2", "stop")
    assert (status, said) == (
        0, f"perdition.imap4: killed (pid {pid}): it did not end in time\n"
    )  # fmt: skip
    wait_for(lambda: not listens(host.ports["imap4"]), "its workers live on")
    assert host("status")[0] == 3


def test_restart_stops_nothing_when_the_file_is_at_fault(host: Host) -> None:
    assert host("start")[0] == 0
    first = host.pid("imap4")
    with (host.folder / "defaults").open("a") as file:
        file.write("IMAP5=yes\n")
    assert host("restart")[0] == 6
    assert (host.pid("imap4"), listens(host.ports["imap4"])) == (first, True)
    host.write(IMAP4="yes")
    status, said = host("restart")
    assert status == 0
    assert f"stopped (pid {first})" in said
    assert host.pid("imap4") != first


def test_words_that_it_does_not_know(host: Host) -> None:
    assert host()[0] == 2
    assert host("begin")[0] == 2
    status, said = host("start", "smtp")
    assert status == 2
    assert "no such protocol: 'smtp'" in said


# -- run: what systemd starts ---------------------------------------------------------------


class Run:
    """``perdition-service run`` under a service manager's ears. A context that ends with it."""

    def __init__(self, host: Host, *words: str) -> None:
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.settimeout(10)
        self.ears.bind("")
        name = "@" + self.ears.getsockname()[1:].decode()
        self.process = subprocess.Popen(
            host.command(*words, "run"), env={**os.environ, "NOTIFY_SOCKET": name},
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.ears.close()

    def hears(self, word: str) -> str:
        """Return the next message that has `word` as one of its lines."""
        while True:
            message = self.ears.recv(4096).decode()
            if any(line.startswith(word) for line in message.splitlines()):
                return message


def test_run_tells_systemd_and_ends_all(host: Host) -> None:
    host.write(IMAP4="yes", IMAP4S="yes")
    with Run(host) as run:
        message = run.hears("READY=1")
        assert "STATUS=perdition.imap4 up, perdition.imaps up" in message
        assert listens(host.ports["imap4"])
        assert listens(host.ports["imaps"])
        assert host("status")[0] == 0
        run.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in run.hears("RELOADING=1")
        run.hears("READY=1")
        run.process.terminate()
        run.hears("STOPPING=1")
        assert run.process.wait(10) == 0
    assert not listens(host.ports["imap4"])
    assert not listens(host.ports["imaps"])


def test_run_tolerates_a_daemon_that_can_not_start_if_it_is_told_to(host: Host) -> None:
    host.write(IMAP4="yes", IMAP4S="yes", IMAP4S_FLAGS="'--ssl_cert_file /nonexistent'")
    with Run(host) as run:
        assert run.process.wait(15) == 1
    assert not listens(host.ports["imap4"])
    with Run(host, "--tolerant") as run:
        message = run.hears("READY=1")
        assert "STATUS=perdition.imap4 up, perdition.imaps could not start" in message
        assert listens(host.ports["imap4"])
        run.process.send_signal(signal.SIGHUP)
        run.hears("RELOADING=1")
        run.hears("READY=1")
        run.process.terminate()
        assert run.process.wait(10) == 0
    host.write(IMAP4S="yes", IMAP4S_FLAGS="'--ssl_cert_file /nonexistent'")
    with Run(host, "--tolerant") as run:
        assert run.process.wait(15) == 1


def test_run_loses_no_reload_that_comes_before_a_daemon_is_up(host: Host) -> None:
    with Run(host) as run:
        wait_for((host.run_dir / "perdition.imap4.pid").exists, "it does not start")
        run.process.send_signal(signal.SIGHUP)  # its configuration has been read by now
        run.hears("RELOADING=1")
        run.hears("READY=1")
        assert "Reloaded" in (host.folder / "log").read_text()
        assert run.process.poll() is None


def test_run_starts_a_daemon_that_was_killed_again(host: Host) -> None:
    with Run(host) as run:
        run.hears("READY=1")
        first = host.pid("imap4")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: host.pid("imap4") not in (0, first), "no other daemon")
        wait_for(lambda: listens(host.ports["imap4"]), "it does not listen")


def test_run_ends_when_one_can_not_start(host: Host) -> None:
    host.write("--username nosuchuser", IMAP4="yes", IMAP4S="yes")
    begin = time.monotonic()
    with Run(host) as run:
        assert run.process.wait(10) == 1
        assert run.process.stderr is not None
        assert "no such user: 'nosuchuser'" in run.process.stderr.read().decode()
    assert time.monotonic() - begin < 10


def test_run_with_nothing_to_do_is_content(host: Host) -> None:
    host.write()
    with Run(host) as run:
        assert "no daemon is chosen" in run.hears("READY=1")
        assert run.process.wait(10) == 0


# -- stop and upgrade from elsewhere --------------------------------------------------------


def ctl(host: Host, *words: str) -> str:
    """What perditionctl says to the daemons of a host."""
    sockets = [f"--socket={host.folder}/{name}.sock" for name in host.ports]
    done = subprocess.run(
        [BIN / "perditionctl", *sockets, *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_run_starts_nothing_again_that_perditionctl_has_stopped(host: Host) -> None:
    host.write(IMAP4="yes", IMAP4S="yes")
    with Run(host) as run:
        run.hears("READY=1")
        ctl(host, "--daemon=imap4", "stop")
        assert "perdition.imap4 down, perdition.imaps up" in run.hears("STATUS=perdition.imap4 d")
        wait_for(lambda: not listens(host.ports["imap4"]), "it listens still")
        ctl(host, "stop")
        assert run.process.wait(10) == 0  # so systemd's Restart=on-failure starts nothing either


class Installed:
    """Programs of a host in a folder of their own, and what each says when it begins."""

    def __init__(self, host: Host) -> None:
        self.folder = host.folder / "bin"
        self.said = host.folder / "said"
        self.folder.mkdir()
        host.bin = self.folder
        self.install("first")

    def install(self, version: str, code: str = "") -> None:
        for name, module in (("perdition-service", "ops.service"), ("perdition.imap4", "cli"),
                             ("perdition.imaps", "cli")):  # fmt: skip
            fresh = self.folder / "fresh"
            fresh.write_text(
                f"#!{sys.executable}\nimport sys\n{code if name == 'perdition-service' else ''}\n"
                f"if '--help' not in sys.argv:\n    open({str(self.said)!r}, 'a')"
                f".write('{version} {name}\\n')\n"
                f"from perdition.{module} import main\nmain()\n"
            )
            fresh.chmod(0o755)
            fresh.rename(self.folder / name)

    def begun(self, version: str, name: str) -> int:
        return self.said.read_text().splitlines().count(f"{version} {name}")


def test_an_upgrade_is_one_of_the_supervisor_too(host: Host) -> None:
    installed = Installed(host)
    host.write(IMAP4="yes", IMAP4S="yes")
    with Run(host) as run:
        run.hears("READY=1")
        daemons = [host.pid("imap4"), host.pid("imaps")]
        with socket.create_connection(("127.0.0.1", host.ports["imap4"])) as client:
            client.settimeout(10)
            assert client.recv(1000).startswith(b"* OK")
            installed.install("second")
            assert ctl(host, "upgrade").count("sessions go on") == 2
            wait_for(lambda: installed.begun("second", "perdition-service"), "it is the old one")
            run.hears("STATUS=perdition.imap4 up, perdition.imaps up")
            assert [host.pid("imap4"), host.pid("imaps")] == daemons
            client.sendall(b"a NOOP\r\n")
            assert client.recv(1000).startswith(b"a OK")
        os.kill(daemons[0], signal.SIGKILL)  # it is still looked after
        wait_for(lambda: host.pid("imap4") not in (0, daemons[0]), "no other daemon")
        wait_for(lambda: listens(host.ports["imap4"]), "it does not listen")
        run.process.terminate()
        assert run.process.wait(10) == 0
    assert not listens(host.ports["imaps"])


def test_a_supervisor_that_is_no_good_is_not_run(host: Host) -> None:
    installed = Installed(host)
    with Run(host) as run:
        run.hears("READY=1")
        installed.install("second", "raise SystemExit('broken')")
        assert "sessions go on" in ctl(host, "--daemon=imap4", "upgrade")
        assert run.process.stderr is not None
        wait_for(lambda: installed.begun("second", "perdition.imap4"), "no upgrade")
        while b"going on as we are" not in run.process.stderr.readline():
            pass
        host.bin = BIN
        assert host("status")[0] == 0
        run.process.terminate()
        assert run.process.wait(10) == 0


def test_a_daemon_of_the_launcher_is_upgraded_where_it_is(host: Host) -> None:
    assert host("start")[0] == 0
    number = host.pid("imap4")
    assert "sessions go on" in ctl(host, "--daemon=imap4", "upgrade")
    assert host.pid("imap4") == number
    assert f"running, pid {number}, listens on 127.0.0.1:{host.ports['imap4']}" in host("status")[1]
