"""What is shipped beside the program: units, the defaults file, the PAM service."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.servers.ports import end, listens, wait_for

from perdition.ops.defaults import DAEMONS, parse_defaults, read_defaults
from perdition.protocols import COMMANDS

SHARE = ROOT / "share"
BIN = Path(sys.executable).parent
UNITS = ("perdition.service", "perdition@.service")
# Tenths, by systemd's own count. What is left is all that a service costs which serves any address,
# starts as root, binds low ports and changes its user: no lock that the program allows is open.
EXPOSURE = 23


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
    return [folder / "perdition.service", folder / "perdition@imaps.service"]


def test_units_are_sound_and_tight(units: list[Path], need: Callable[[str], str]) -> None:
    analyze = need("systemd-analyze")
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for unit in units:
        done = subprocess.run(
            [analyze, "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", unit],
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


def capabilities() -> str:
    """The units' bounding set, as setpriv(1) wants it."""
    lines = {
        line.partition("=")[2]
        for unit in UNITS
        for line in (SHARE / "systemd" / unit).read_text().splitlines()
        if line.startswith("CapabilityBoundingSet=")
    }
    assert len(lines) == 1
    return ",".join(["-all", *(f"+{word[4:].lower()}" for word in lines.pop().split())])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_the_units_capabilities_are_enough(need: Callable[[str], str], folder: Path) -> None:
    """A daemon on a low port: it starts, drops its workers' privileges, reloads, and leaves."""
    setpriv, port = need("setpriv"), free_low_port()
    folder.joinpath("defaults").write_text(
        "RUN_PERDITION=yes POP3=no POP3S=no IMAP4S=no MANAGESIEVE=no\n"
        f"FLAGS='-n -b 127.0.0.1 -l {port} -u nobody -g nogroup --workers 1 -F {folder}/log'\n"
    )
    run_dir = folder / "run"
    words = ["--defaults", f"{folder}/defaults", "--run-dir", str(run_dir), "run"]
    bounds = [setpriv, "--bounding-set", capabilities(), "--inh-caps=-all", "--no-new-privs"]
    process = subprocess.Popen([*bounds, BIN / "perdition-service", *words], umask=0o022)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, "it does not listen")
        assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Reloaded" in (folder / "log").read_text(), "no reload")
    finally:
        assert end(process) == 0
    assert list(run_dir.iterdir()) == []  # the pid file is gone, though it was nobody's
    assert not listens(port)


def free_low_port() -> int:
    """A port that takes CAP_NET_BIND_SERVICE, and that nothing uses."""
    return next(port for port in range(1023, 600, -1) if not listens(port))
