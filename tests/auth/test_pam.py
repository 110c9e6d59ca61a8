"""Local authentication by the real PAM: right, wrong, slow, broken, and who is allowed to ask."""

from __future__ import annotations

import asyncio
import imaplib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.servers.control import ask
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import wait_for

from perdition.auth.asking import Asking, AuthError

# Lets in whoever says `canary-pam`; is slow for `slow`; kills its own process for `die`.
CHECK = """\
#!/bin/sh
read -r word
echo "$PAM_USER $PAM_RHOST $PAM_SERVICE" >> FOLDER/asked
case "$PAM_USER" in
slow) sleep 5 ;;
die) kill -9 "$PPID" ;;
esac
test "$word" = canary-pam
"""
SERVICE = """\
auth [success=1 default=ignore] pam_exec.so expose_authtok quiet FOLDER/check
auth requisite pam_deny.so
auth required pam_permit.so
account required pam_permit.so
"""
# The server knows other passwords for the same users: who gets in there came through PAM.
PASSWORD = "canary-pam"


@pytest.fixture
def pam() -> Iterator[Path]:
    """Give a folder with a PAM service ``perdition`` that runs a script."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        where = Path(name)
        os.chmod(where, 0o755)
        check = where / "check"
        check.write_text(CHECK.replace("FOLDER", name))
        check.chmod(0o755)
        (where / "perdition").write_text(SERVICE.replace("FOLDER", name))
        yield where


@pytest.fixture(scope="module")
def dovecot(need: Callable[[str], str], folder: Path) -> Iterator[Dovecot]:
    users = {"ann": PASSWORD, "ann@x.org": PASSWORD}
    with Dovecot(need("dovecot"), folder / "d", users) as running:
        yield running


def daemon(where: Path, pam: Path, server: int, *options: str) -> Daemon:
    return Daemon(
        where, f"outgoing_server 127.0.0.1:{server}", "authenticate_in", f"pam_folder {pam}",
        "failure_delay 0", "workers 1", *options,
    )  # fmt: skip


def log_in(port: int, user: str, password: str = PASSWORD) -> str:
    with Lines.to(port) as lines:
        lines.hear()
        return lines.ask(f"a LOGIN {user} {password}")[-1]


def test_right_and_wrong_passwords(dovecot: Dovecot, pam: Path, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", pam, dovecot.port, "strip_domain local_authentication") as proxy:
        with imaplib.IMAP4("127.0.0.1", proxy.port) as imap:
            imap.login("ann@x.org", PASSWORD)
            assert imap.select()[0] == "OK"
        answer = log_in(proxy.port, "ann", "guess")
        assert answer == "a NO [AUTHENTICATIONFAILED] Authentication failure"
        proxy.wait_for_log('status="failed: local authentication failure"')
        assert PASSWORD not in proxy.log.read_text()
    assert (pam / "asked").read_text() == "ann 127.0.0.1 perdition\n" * 2


def test_a_slow_or_broken_pam_is_a_trouble_that_passes(
    dovecot: Dovecot, pam: Path, tmp_path: Path
) -> None:
    options = ("pam_timeout 1", "pam_processes 2")
    temporary = "a NO [UNAVAILABLE] failed: Could not authenticate locally"
    with daemon(tmp_path / "p", pam, dovecot.port, *options) as proxy:
        started = time.monotonic()
        assert log_in(proxy.port, "slow") == temporary
        assert 1 <= time.monotonic() - started < 3
        assert log_in(proxy.port, "ann").startswith("a OK"), "the other process is free"
        proxy.wait_for_log("^local authentication: no answer within 1 s")
    (pam / "perdition").write_text("auth required pam_missing.so\n")
    with daemon(tmp_path / "q", pam, dovecot.port) as proxy:
        assert log_in(proxy.port, "ann") == temporary
        proxy.wait_for_log("^local authentication: PAM is in trouble")


def helpers(proxy: Daemon) -> list[int]:
    """The authentication processes of a daemon."""

    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")

    return [pid for pid in proxy.workers if title(pid).endswith(": authentication")]


def test_a_helper_that_dies_is_replaced_and_none_outlives_the_daemon(
    dovecot: Dovecot, pam: Path, tmp_path: Path
) -> None:
    with daemon(tmp_path / "p", pam, dovecot.port, "pam_processes 2") as proxy:
        first = helpers(proxy)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        proxy.wait_for_log(rf"^authentication process \[{first[0]}\] ended: starting another")
        wait_for(lambda: len(helpers(proxy)) == 2, "no other helper")
        assert log_in(proxy.port, "ann").startswith("a OK")
        proxy.reload()
        assert log_in(proxy.port, "ann").startswith("a OK")
        wait_for(lambda: len(helpers(proxy)) == 2, "helpers of the old configuration stay")
        last = helpers(proxy)
        assert not set(last) & set(first)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in last), "helpers stay")


def test_what_pam_can_not_take_is_wrong(dovecot: Dovecot, pam: Path, tmp_path: Path) -> None:
    with daemon(tmp_path / "p", pam, dovecot.port) as proxy:
        assert "AUTHENTICATIONFAILED" in log_in(proxy.port, '"-h"')
        assert "AUTHENTICATIONFAILED" in log_in(proxy.port, '"../../etc"', "x" * 500)
        assert log_in(proxy.port, "ann").startswith("a OK")


def test_checks_under_way_have_a_bound() -> None:
    ask, answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def check() -> None:
        asking = Asking(asyncio.get_running_loop(), ask, timeout=0.3, most=1)
        first = asyncio.create_task(asking.check(b"ann", b"x", ""))
        await asyncio.sleep(0)
        with pytest.raises(AuthError, match="1 checks are under way already"):
            await asking.check(b"bob", b"x", "")
        with pytest.raises(AuthError, match=r"no answer within 0.3 s"):
            await first
        answer.close()
        with pytest.raises(AuthError, match="no helper takes the question"):
            await asking.check(b"bob", b"x", "")
        assert not await asking.check(b"bo\0b", b"x", ""), "no name for PAM"
        assert not await asking.check(b"bob", b"x" * 20_000, "")

    with ask:
        asyncio.run(check())


def test_over_an_upgrade_old_workers_ask_their_own_processes(
    dovecot: Dovecot, pam: Path, tmp_path: Path
) -> None:
    with daemon(tmp_path / "p", pam, dovecot.port, "pam_processes 3") as proxy:
        wait_for(lambda: len(helpers(proxy)) == 3, "not all have their title")
        old = helpers(proxy)
        with Lines.to(proxy.port) as client:
            client.hear()
            assert "error" not in ask(proxy.control, verb="upgrade")[-1]
            assert log_in(proxy.port, "ann").startswith("a OK"), "a new worker asks a new process"
            assert client.ask(f"a LOGIN ann {PASSWORD}")[-1].startswith("a OK")
        wait_for(lambda: not set(old) & set(helpers(proxy)), "old processes stay")
        assert len(helpers(proxy)) == len(old)


def test_inetd_mode_asks_too(dovecot: Dovecot, pam: Path, tmp_path: Path) -> None:
    words: list[str | Path] = [
        BIN / "perdition.pop3", "-f", "/dev/null", "--inetd_mode", "--no_lookup",
        "--outgoing_server", f"127.0.0.1:{dovecot.pop3}", "--authenticate_in", "--pam_folder", pam,
        "--failure_delay", "0", "--log_facility", tmp_path / "log", "--map_library", "",
    ]  # fmt: skip
    talk = f"USER ann\r\nPASS wrong\r\nUSER ann\r\nPASS {PASSWORD}\r\nQUIT\r\n"
    done = subprocess.run(words, input=talk.encode(), capture_output=True, timeout=20, check=False)
    replies = [line[:11] for line in done.stdout.decode().splitlines()]
    assert replies[2] == "-ERR [AUTH]"
    assert replies[4] == "+OK You are"
    assert done.returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs a mount namespace of its own")
def test_the_sample_service_works_with_the_accounts_of_debian(
    dovecot: Dovecot, pam: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    """A user in /etc/shadow, as the daemon alone sees it."""
    shadow, passwd = pam / "shadow", pam / "passwd"
    hashed = subprocess.run(
        [need("openssl"), "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    passwd.write_text(Path("/etc/passwd").read_text() + "ann:x:54321:54321::/:/bin/false\n")
    shadow.write_text(Path("/etc/shadow").read_text() + f"ann:{hashed}:19000:0:99999:7:::\n")
    for name in ("common-auth", "common-account"):
        (pam / name).write_text(Path("/etc/pam.d", name).read_text())
    (pam / "perdition").write_text((ROOT / "share/pam.d/perdition").read_text())
    proxy = daemon(tmp_path / "p", pam, dovecot.port)
    proxy.wrapper = (
        need("unshare"), "-m", "sh", "-c",
        f"mount --bind {shadow} /etc/shadow && mount --bind {passwd} /etc/passwd && exec \"$@\"",
        "sh",
    )  # fmt: skip
    with proxy:
        assert log_in(proxy.port, "ann").startswith("a OK")
        assert "AUTHENTICATIONFAILED" in log_in(proxy.port, "ann", "guess")
