"""What is shipped beside the program: units, the defaults file, the filter for fail2ban."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT

from perdition.ops.defaults import DAEMONS, parse_defaults, read_defaults
from perdition.protocols import COMMANDS

SHARE = ROOT / "share"
EXPOSURE = 25  # tenths, by systemd's own count; what is left is the price of root and its ports


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The units as they would be installed, with a program that this machine has."""
    folder = tmp_path_factory.mktemp("units")
    for name in ("perdition.service", "perdition@.service"):
        text = (SHARE / "systemd" / name).read_text()
        folder.joinpath(name.replace("@", "@imaps")).write_text(
            re.sub("/usr/bin/perdition[^ \n]*", "/bin/true", text)
        )
        folder.joinpath(name).write_text(re.sub("/usr/bin/perdition[^ \n]*", "/bin/true", text))
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
    for instance in ("imap4", "imaps", "pop3", "pop3s", "managesieve"):
        assert f"perdition.{instance}" in COMMANDS


def test_the_defaults_file_chooses_nothing_yet_and_all_when_switched_on() -> None:
    path = SHARE / "default/perdition"
    assert read_defaults(str(path)).chosen == ()
    switched_on = path.read_text().replace("RUN_PERDITION=no", "RUN_PERDITION=yes")
    assert set(parse_defaults(switched_on, str(path)).chosen) == set(DAEMONS)


@pytest.mark.parametrize(
    "text",
    [
        'FLAGS="-d --ok_line \\"x\\""',
        "FLAGS='a b'c\"d\"\\ e",
        "FLAGS=a#b # comment",
        "FLAGS=one;FLAGS=two",
        'FLAGS="x\\\ny"',
        "export FLAGS=x",
        "FLAGS=",
        'FLAGS="a  b"',
    ],
)
def test_a_file_means_what_it_means_to_a_shell(text: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'{text}\nprintf "%s\\n" $FLAGS'], capture_output=True, text=True, check=True
    )
    words = parse_defaults(f"RUN_PERDITION=yes\n{text}\n", "defaults").words["POP3"]
    assert list(words) == done.stdout.split("\n")[:-1] or (not words and done.stdout == "\n")


LINES = {
    "127.0.0.1:40000->127.0.0.1:993": 1,
    "[2001:db8::1]:40000->[2001:db8::2]:993": 1,
    "2001:db8::1:40000->2001:db8::2:993": 1,
}


@pytest.mark.parametrize(("fan", "count"), LINES.items())
@pytest.mark.parametrize("name", ["kim", "", 'k"im', "[1.2.3.4]"])
def test_our_filter_for_fail2ban(
    fan: str, count: int, name: str, need: Callable[[str], str], tmp_path: Path
) -> None:
    log = tmp_path / "mail.log"
    start = "Nov 24 04:00:00 dmz perdition.imaps[77]: "
    ids = f'client-secure=ssl authorisation_id=NONE authentication_id="{name}"'
    tail = 'server="10.0.0.1:143" protocol=IMAP4S server-secure=plaintext status='
    log.write_text(
        f'{start}Auth: {fan} {ids} {tail}"failed: Re-Authentication Failure"\n'
        f'{start}Auth: {fan} {ids} {tail}"failed: Could not connect to server"\n'
        f'{start}Auth: {fan} {ids} {tail}"ok"\n'
        f"{start}Connect:  {fan}\n"
    )
    (tmp_path / "filter.d").symlink_to("/etc/fail2ban/filter.d")
    ours = tmp_path / "perdition3.conf"
    shipped = (SHARE / "fail2ban/perdition3.conf").read_text()
    ours.write_text(shipped.replace("before = ", "before = filter.d/"))
    done = subprocess.run(
        [need("fail2ban-regex"), log, ours], capture_output=True, text=True, check=False
    )
    assert f"{count} matched" in done.stdout, done.stdout + done.stderr
