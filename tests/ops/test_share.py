"""What is shipped beside the program: units, the defaults file, the PAM service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.servers.lines import Lines
from tests.servers.ports import end, listens, wait_for
from tests.servers.sandbox import command, settings

from perdition.ops.defaults import DAEMONS, parse_defaults, read_defaults
from perdition.protocols import COMMANDS

SHARE = ROOT / "share"
BIN = Path(sys.executable).parent
UNITS = ("perdition.service", "perdition@.service")
AS_ROOT = (SHARE / "systemd/as-root.conf").read_text()
# Tenths, by systemd's own count. What is left is all that a service costs which serves any address,
# binds low ports and reads keys; or which starts as root and changes its user.
EXPOSURE, EXPOSURE_AS_ROOT = 20, 23


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The units as they would be installed, with a program that this machine has."""
    folder = tmp_path_factory.mktemp("units")
    for name in UNITS:
        text = (SHARE / "systemd" / name).read_text()
        text = re.sub("/usr/bin/perdition[^ \n]*", "/bin/true", text)
        text = re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE)  # not installed
        folder.joinpath(name).write_text(text)
        folder.joinpath(name.replace("@", "@imaps")).write_text(text)
        folder.joinpath(name.replace(".", "-root.")).write_text(f"{text}\n{AS_ROOT}")
    return [folder / "perdition.service", folder / "perdition@imaps.service"]


def test_units_are_sound_and_tight(units: list[Path], need: Callable[[str], str]) -> None:
    analyze = need("systemd-analyze")
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(units) == 2
    as_root = list(units[0].parent.glob("*-root.service"))
    assert len(as_root) == 2
    for most, chosen in ((EXPOSURE, units), (EXPOSURE_AS_ROOT, as_root)):
        for unit in chosen:
            done = subprocess.run(
                [analyze, "security", "--offline=yes", "--no-pager", f"--threshold={most}", unit],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout


def test_units_name_commands_that_there_are() -> None:
    all_in_one = (SHARE / "systemd/perdition.service").read_text()
    assert "ExecStart=/usr/bin/perdition-service run\n" in all_in_one
    one = (SHARE / "systemd/perdition@.service").read_text()
    assert "ExecStart=/usr/bin/perdition.%i --no_daemon --pid_file" in one
    for instance in ("imap4", "imap4s", "imaps", "pop3", "pop3s", "managesieve"):
        assert f"perdition.{instance}" in COMMANDS


def test_the_defaults_file_chooses_nothing_yet_and_all_when_switched_on() -> None:
    path = SHARE / "default/perdition"
    assert read_defaults(str(path)).chosen == ()
    switched_on = path.read_text().replace("RUN_PERDITION=no", "RUN_PERDITION=yes")
    assert set(parse_defaults(switched_on, str(path)).chosen) == set(DAEMONS)


def test_pam_takes_the_rules_of_the_host() -> None:
    for line in (SHARE / "pam.d/perdition").read_text().splitlines():
        if line and not line.startswith("#"):
            kind, *words = line.split()
            # A path would tie it to one Debian release; passwords and sessions are not ours.
            assert kind in ("@include", "auth", "account")
            assert not any("/" in word for word in words)
            assert Path("/etc/pam.d", words[0]).exists() or kind != "@include"


def test_the_user_of_the_units_is_made() -> None:
    text = (SHARE / "sysusers.d/perdition.conf").read_text()
    for unit in UNITS:
        assert settings((SHARE / "systemd" / unit).read_text())["User"] == ["perdition"]
    assert re.search(r"^u perdition - ", text, re.MULTILINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
@pytest.mark.parametrize("started_as", ["perdition", "root"])
def test_a_daemon_in_the_units_sandbox(
    need: Callable[[str], str], folder: Path, certificates: Path, started_as: str
) -> None:
    """A daemon with a low port and a key of root's: it starts, drops all, reloads, and leaves."""
    box = folder / started_as
    box.mkdir()
    run_dir, key, port = box / "run", box / "key.pem", free_low_port()
    for made in (run_dir, box / "log"):
        made.mkdir()  # systemd makes them: RuntimeDirectory, LogsDirectory
        if started_as != "root":
            shutil.chown(made, "nobody", "nogroup")
    shutil.copy(certificates / "key.pem", key)
    shutil.copy(certificates / "cert.pem", box)
    key.chmod(0o600)
    tls = f"--ssl_mode ssl_listen --ssl_cert_file {box}/cert.pem --ssl_key_file {key}"
    box.joinpath("defaults").write_text(
        "RUN_PERDITION=yes POP3=no POP3S=no IMAP4=no MANAGESIEVE=no\n"
        f"FLAGS='-n -b 127.0.0.1 -l {port} --workers 1 -F {box}/log/log {tls}"
        f" --control_socket {run_dir}/control'\n"
    )
    text = (SHARE / "systemd/perdition.service").read_text()
    text += AS_ROOT if started_as == "root" else ""
    sandbox = command(text, box, need("systemd-analyze"), need("setpriv"), "65534")
    words = ["--defaults", f"{box}/defaults", "--run-dir", str(run_dir), "run"]
    process = subprocess.Popen([*sandbox, BIN / "perdition-service", *words], umask=0o077)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, "it does not listen")
        assert process.poll() is None
        assert greeting(port, certificates).startswith("* OK")  # so the worker is ready
        master, worker = descendants(process.pid)
        assert user(master) == (0 if started_as == "root" else 65534)
        assert user(worker) == 65534
        assert capabilities(worker) == dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), 0)
        assert "NoNewPrivs:\t1" in status(worker)
        assert os.stat(f"/proc/{worker}/mem").st_uid == 0, "its memory is open to its user"
        ctl = [str(BIN / "perditionctl"), f"--socket={run_dir}/control"]
        said = subprocess.run([*ctl, "status"], capture_output=True, check=True).stdout
        assert b"imap" in said
        said = subprocess.run([*ctl, "upgrade"], capture_output=True, check=True).stdout
        assert b"0 sessions go on" in said
        wait_for(lambda: worker not in descendants(process.pid), "the old worker stays")
        assert user(master) == (0 if started_as == "root" else 65534)
        (worker,) = descendants(master)
        assert user(worker) == 65534
        assert not any(capabilities(worker).values())
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Reloaded" in (box / "log/log").read_text(), "no reload")
        assert greeting(port, certificates).startswith("* OK")
    finally:
        assert end(process) == 0
    assert list(run_dir.iterdir()) == []
    assert (box / "log/log").stat().st_mode & 0o777 == 0o640
    assert not listens(port)


def greeting(port: int, certificates: Path) -> str:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    with Lines.to(port, context) as client:
        return client.hear()


def descendants(pid: int) -> list[int]:
    """The processes below one, each before its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def user(pid: int) -> int:
    return int(re.findall(r"^Uid:\t(\d+)", status(pid), re.MULTILINE)[0])


def capabilities(pid: int) -> dict[str, int]:
    """Sets of capabilities, by their short names."""
    return {n: int(v, 16) for n, v in re.findall(r"^Cap(\w+):\t(\w+)$", status(pid), re.MULTILINE)}


def free_low_port() -> int:
    """A port that takes CAP_NET_BIND_SERVICE, and that nothing uses."""
    return next(port for port in range(1023, 600, -1) if not listens(port))
