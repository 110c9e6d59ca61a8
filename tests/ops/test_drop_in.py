"""perdition-service drop-in: what an upgraded host needs beyond perdition.service, and why."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.servers.sandbox import settings

from perdition.ops import drop_in as module
from perdition.ops.drop_in import AS_ROOT, drop_in

BIN = Path(sys.executable).parent
HEAD = "# What this host's configuration needs beyond perdition.service, and why:\n"
BASIC = ("--outgoing_server", "127.0.0.1", "--no_lookup")


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> str:
    """The units' user, one that every machine has."""
    monkeypatch.setattr(module, "USER", "mail")
    return "mail"


def needs(*words: str, broken: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """The reasons and the lines for one daemon with these words."""
    text = drop_in([["/usr/sbin/perdition.imap4", *BASIC, *words]], broken, "/x/perdition-service")
    if not text:
        return [], []
    head, _, body = text.partition("\n\n[Service]\n")
    assert f"{head}\n".startswith(HEAD)
    return f"{head}\n".removeprefix(HEAD).splitlines(), body.splitlines()


def test_nothing_for_what_the_unit_gives() -> None:
    assert needs() == ([], [])
    assert needs("--log_facility", "local1") == ([], [])
    assert needs("--log_facility", "/var/log/perdition/log") == ([], [])
    assert needs("--no_such_option") == ([], []), "it can't start, root or not"


@pytest.mark.parametrize(
    ("words", "why", "lines"),
    [
        (("-u", "mailproxy"), "username mailproxy: workers change to it", AS_ROOT),
        (("--group", "adm"), "group adm: workers change to it", AS_ROOT),
        (("-a",), "authenticate_in: PAM may have to read /etc/shadow", AS_ROOT),
        (("--ssl_key_file", "/root/key.pem"), "ssl_key_file /root/key.pem: is in a home",
         ("ProtectHome=read-only",)),
        (("--ssl_cert_file", "/tmp/cert.pem"),
         "ssl_cert_file /tmp/cert.pem: is among temporary files", ("PrivateTmp=no",)),
    ],
)  # fmt: skip
def test_each_need(words: tuple[str, ...], why: str, lines: tuple[str, ...]) -> None:
    assert needs(*words) == ([f"# perdition.imap4: {why}"], list(lines))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_logs_by_their_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str) -> None:
    monkeypatch.setattr(module, "_TEMPORARY", ())
    log = tmp_path / "log"
    why = f"# perdition.imap4: log_facility {log}: "
    writable = f"ReadWritePaths={tmp_path}"
    for owner, wanted in (("root", AS_ROOT), ("nobody", (*AS_ROOT, module._ANY_OWNER)), (user, ())):
        log.write_text("")
        os.chown(log, pwd.getpwnam(owner).pw_uid, 0)
        log.chmod(0o640)
        reasons, lines = needs("--log_facility", str(log))
        assert lines == [writable, *wanted]
        assert reasons[0] == why + "only /var/log may be written"
        assert reasons[1:] == [f"{why}the user {user} may not write there"] * bool(wanted)
    log.unlink()
    assert needs("--log_facility", str(log))[1] == [writable, *AS_ROOT], "a folder of root's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_popmaps_that_only_some_may_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_TEMPORARY", ())
    path = tmp_path / "popmap"
    path.write_text("kim:127.0.0.1\n")
    words = ["perdition.imap4", "--map_library", "popmap", "--map_library_opt", str(path)]
    path.chmod(0o644)
    assert drop_in([words], [], "") == ""
    path.chmod(0o640)
    text = drop_in([words], [], "")
    assert f"# perdition.imap4: {path}: the user mail may not read this popmap\n" in text
    os.chown(path, 0, pwd.getpwnam("mail").pw_gid)
    assert drop_in([words], [], "") == ""


def test_daemons_that_can_not_start_are_left_aside() -> None:
    assert needs(broken=("perdition.imaps",)) == (
        ["# perdition.imaps: can't start now, which must not keep the others from it"],
        ["ExecStart=", "ExecStart=/x/perdition-service --tolerant run"],
    )


def test_as_root_is_what_the_shipped_drop_in_says() -> None:
    """The unit's own lines and these are what as-root.conf gives."""
    unit = (ROOT / "share/systemd/perdition.service").read_text()
    ours = settings(unit + "\n[Service]\n" + "\n".join(AS_ROOT))
    theirs = settings(unit + "\n" + (ROOT / "share/systemd/as-root.conf").read_text())
    for name in ("User", "Group", "AmbientCapabilities", "SystemCallFilter"):
        assert ours[name] == theirs[name]
    assert {word for line in ours["CapabilityBoundingSet"] for word in line.split()} == {
        word for line in theirs["CapabilityBoundingSet"] for word in line.split()
    }


def test_the_command_looks_at_the_chosen_daemons(tmp_path: Path) -> None:
    defaults = tmp_path / "defaults"
    defaults.write_text(
        "RUN_PERDITION=yes POP3=no POP3S=no IMAP4=yes IMAP4S=yes MANAGESIEVE=no\n"
        "FLAGS='-s 127.0.0.1 -n' IMAP4S_FLAGS='--ssl_cert_file /nonexistent'\n"
    )
    words = [str(BIN / "perdition-service"), "--defaults", str(defaults), "drop-in"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "# perdition.imaps: can't start now" in done.stdout
    assert done.stdout.endswith(f"\nExecStart={BIN}/perdition-service --tolerant run\n")
    defaults.write_text(defaults.read_text().replace("IMAP4S=yes", "IMAP4S=no"))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
