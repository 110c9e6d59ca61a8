"""Reload, renewal, log rotation and upgrade, with mail on its way through them both ways."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from tests.conftest import ROOT
from tests.servers.control import ask
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import end, listens, wait_for
from tests.servers.traffic import USERS, Traffic, log_in, put_message

_SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, "{library}")
from perdition.{module} import main
main()
"""


_PROGRAMS = {"perdition.imap4": "cli", "perdition.imap4s": "cli", "perdition.imaps": "cli",
             "perdition-service": "ops.service"}  # fmt: skip


class Site:
    """A daemon without TLS and one with TLS on both sides, installed in a folder of their own."""

    def __init__(self, dovecot: Dovecot, folder: Path, certificates: Path) -> None:
        self.folder = folder
        self.dovecot = dovecot
        self.key = folder / "key.pem"
        for name in ("key.pem", "cert.pem", "ca.pem"):
            shutil.copy(certificates / name, folder / name)
        self.trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        options = ("outgoing_server localhost", "workers 2", "failure_delay 0",
                   "connection_limit 40", "shutdown_timeout 1")  # fmt: skip
        self.plain = Daemon(folder / "plain", *options, f"outgoing_port {dovecot.port}")
        self.tls = Daemon(
            folder / "tls", *options, f"outgoing_port {dovecot.imaps}", "ssl_mode ssl_all",
            f"ssl_cert_file {folder}/cert.pem", f"ssl_key_file {folder}/key.pem",
            f"ssl_ca_file {certificates}/ca.pem", "ssl_watch_interval 1",
            command="perdition.imap4s",
        )  # fmt: skip
        self.bin = folder / "bin"
        self.bin.mkdir()
        for daemon in (self.plain, self.tls):
            daemon.program = self.bin / daemon.program.name
        self.install(ROOT / "src")

    @property
    def daemons(self) -> tuple[Daemon, Daemon]:
        return self.plain, self.tls

    def install(self, library: Path) -> None:
        """Have the programs be those of a library, as a package manager would."""
        for name, module in _PROGRAMS.items():
            fresh = self.bin / "fresh"
            fresh.write_text(_SCRIPT.format(python=sys.executable, library=library, module=module))
            fresh.chmod(0o755)
            fresh.rename(self.bin / name)

    def another(self, version: str, *changes: tuple[str, str, str]) -> Path:
        """A library of another version, with changes: file, text, in its place."""
        library = self.folder / version
        shutil.copytree(ROOT / "src/perdition", library / "perdition")
        changes = (("__init__.py", '__version__ = "', f'__version__ = "{version}+'), *changes)
        for name, text, other in changes:
            file = library / "perdition" / name
            code = file.read_text()
            assert text in code
            file.write_text(code.replace(text, other, 1))
        return library

    def traffic(self) -> Traffic:
        return Traffic(self.dovecot, (self.plain.port, None), (self.tls.port, self.trust))

    def ctl(self, *words: str, status: int = 0) -> str:
        """What perditionctl says to both daemons."""
        sockets = [f"--socket={daemon.control}" for daemon in self.daemons]
        done = subprocess.run(
            [BIN / "perditionctl", *sockets, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dovecot(folder: Path, certificates: Path, need: Callable[[str], str]) -> Iterator[Dovecot]:
    """A server with TLS, where the readers have mail."""
    with Dovecot(need("dovecot"), folder / "dovecot", USERS, certificates) as server:
        for user in ("ann", "cid"):
            put_message(server.port, user)
        yield server


@pytest.fixture
def site(dovecot: Dovecot, tmp_path: Path, certificates: Path) -> Iterator[Site]:
    """The daemons, up."""
    found = Site(dovecot, tmp_path, certificates)
    with found.plain, found.tls:
        yield found


def sessions(daemon: Daemon) -> int:
    found = ask(daemon.control, verb="status")[0]["status"]["sessions"]
    assert isinstance(found, int)
    return found


# -- what an administrator does every now and then ------------------------------------------


def reload(site: Site) -> None:
    for daemon in site.daemons:
        daemon.reload("ok_line Another word")


def rotate(site: Site) -> None:
    for daemon in site.daemons:
        daemon.log.rename(daemon.log.with_suffix(".1"))
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(daemon.log.exists, "no new log")
        daemon.wait_for_log("^Reloaded")


def renew(site: Site) -> None:
    renewed = trustme.CA()
    made = renewed.issue_cert("localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(site.folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(site.folder / "cert.pem")
    renewed.configure_trust(site.trust)
    site.tls.wait_for_log("^certificates or keys have changed")
    site.tls.wait_for_log("^Reloaded")


def upgrade(site: Site) -> None:
    site.install(site.another("4.0"))
    said = site.ctl("upgrade")
    assert said.count(" -> 4.0+") == 2


@pytest.mark.parametrize("what", [reload, rotate, renew, upgrade])
def test_mail_goes_through(site: Site, what: Callable[[Site], None]) -> None:
    before = {daemon: daemon.workers for daemon in site.daemons}
    with site.traffic() as traffic:
        logins = traffic.logins
        what(site)
        wait_for(lambda: traffic.logins > logins + 2, "nobody logs in")
        changed = [site.tls] if what is renew else site.daemons
        for daemon in changed:
            old = [pid for pid in before[daemon] if pid in daemon.workers]
            assert old, "the transfers are not those of old workers"
            assert len(daemon.workers) == 2 + len(old)
    for daemon in changed:
        wait_for(lambda d=daemon: not set(before[d]) & set(d.workers), "old workers stay")  # type: ignore[misc]
        assert len(daemon.workers) == 2
        wait_for(lambda d=daemon: sessions(d) == 0, "sessions are counted that have ended")  # type: ignore[misc]


# -- upgrade --------------------------------------------------------------------------------


def test_mail_goes_through_an_upgrade_of_daemons_and_supervisor(
    dovecot: Dovecot, tmp_path: Path, certificates: Path
) -> None:
    site = Site(dovecot, tmp_path, certificates)
    defaults = tmp_path / "defaults"
    defaults.write_text(
        "RUN_PERDITION=yes POP3=no POP3S=no MANAGESIEVE=no\n"
        f"IMAP4_FLAGS='-f {site.plain.config}'\nIMAP4S_FLAGS='-f {site.tls.config}'\n"
    )
    words = ["--defaults", str(defaults), "--run-dir", f"{tmp_path}/run", "run"]
    process = subprocess.Popen([site.bin / "perdition-service", *words])
    try:
        wait_for(lambda: all(map(listens, (site.plain.port, site.tls.port))), "no daemon")
        with site.traffic() as traffic:
            logins = traffic.logins
            upgrade(site)
            wait_for(lambda: traffic.logins > logins + 20, "nobody logs in")
        assert ask(site.plain.control, verb="status")[0]["status"]["version"].startswith("4.0+")
        for daemon in site.daemons:
            wait_for(lambda d=daemon: sessions(d) == 0, "sessions stay")  # type: ignore[misc]
    finally:
        assert end(process) == 0
    assert not any(map(listens, (site.plain.port, site.tls.port)))


def test_an_upgrade_keeps_the_number_the_files_and_what_was_said(site: Site) -> None:
    plain = site.plain
    number = plain.pid_file.read_text()
    site.ctl("drain", "mail9.example.org")
    with log_in(plain.port, "ann"):
        site.install(site.another("4.0"))
        plain.write("ok_line Welcome to the new one")
        site.ctl("upgrade")
        assert plain.pid_file.read_text() == number == str(plain.process.pid)
        assert stat.S_ISSOCK(os.stat(plain.control).st_mode)
        assert "4.0+" in plain.wait_for_log("^Upgraded from version=")[0]
        with Lines.to(plain.port) as client:
            client.hear()
            assert client.ask("a LOGIN bob canary-bob")[-1] == "a OK Welcome to the new one"
        wait_for(lambda: sessions(plain) == 1, "counts are lost")
        status = ask(plain.control, verb="status")[0]["status"]
        assert status["version"].startswith("4.0+")
        assert status["drained"] == ["mail9.example.org"]
        assert status["connections"] == 2
        site.ctl("upgrade")  # once more, with sessions of two older ones
        wait_for(lambda: sessions(plain) == 1, "counts are lost")
        assert "ann" in site.ctl("who")
        assert "ended: 1" in site.ctl("kick", "ann")
    wait_for(lambda: sessions(plain) == 0 and len(plain.workers) == 2, "old workers stay")
    plain.process.terminate()
    assert plain.process.wait(10) == 0
    assert not plain.pid_file.exists()
    assert not plain.control.exists()


def test_the_limit_holds_over_an_upgrade_even_if_counters_change(site: Site) -> None:
    plain = site.plain
    plain.reload("connection_limit 3")
    counts_more = ("metrics.py", '"open_files",', '"open_files", "of_tomorrow",')
    clients = [log_in(plain.port, "ann"), log_in(plain.port, "bob")]
    site.install(site.another("4.0", counts_more))
    site.ctl("upgrade")
    assert sessions(plain) == 2
    clients.append(log_in(plain.port, "cid"))
    with Lines.to(plain.port) as one_too_many:
        assert one_too_many.hear().startswith("* BYE")
    site.ctl("upgrade")
    with Lines.to(plain.port) as one_too_many:
        assert one_too_many.hear().startswith("* BYE")
    for client in clients:
        client.__exit__()
    wait_for(lambda: sessions(plain) == 0, "places are not given back")


_BROKEN = {
    "a program that can not be read": (("cli.py", "import os\n", "import os)\n"), "SyntaxError"),
    "workers that fail": (
        ("server/worker.py", "    return Worker(orders).run()", '    raise OSError("no way")'),
        "no way",
    ),
    "a worker that dies": (
        ("server/worker.py", "    return Worker(orders).run()", "    return 3"),
        "a worker died while it started",
    ),
    "another format": (
        ("server/handover.py", "FORMAT = 1", "FORMAT = 2"),
        "can't take over from a running version",
    ),
    "a program that hangs": (
        ("server/handover.py", "        file.seek(0)\n", "        signal.pause()\n"),
        "did not come up within 1 s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", _BROKEN)
def test_a_version_that_does_not_come_up_changes_nothing(
    dovecot: Dovecot, tmp_path: Path, certificates: Path, fault: str
) -> None:
    change, why = _BROKEN[fault]
    site = Site(dovecot, tmp_path, certificates)
    patience = "1.0" if fault == "a program that hangs" else "45.0"
    impatient = ("server/handover.py", "PATIENCE = 45.0", f"PATIENCE = {patience}")
    site.install(site.another("3.9", impatient))
    with site.plain as daemon, log_in(daemon.port, "ann") as client:
        workers = daemon.workers
        site.install(site.another("4.0", change))
        answer = ask(daemon.control, verb="upgrade")[-1]
        assert why in answer["error"]
        assert answer["error"].endswith("the old version stays in service")
        assert daemon.workers == workers
        daemon.wait_for_log("^upgrade: failed: the old version stays in service$")
        assert client.ask("b NOOP")[-1].startswith("b OK")
        log_in(daemon.port, "bob").__exit__()
        assert ask(daemon.control, verb="status")[0]["status"]["version"].startswith("3.9+")


def test_workers_that_fail_after_the_rehearsal_are_tried_again_and_the_old_ones_serve(
    site: Site,
) -> None:
    daemon, ready = site.plain, site.folder / "ready"
    fails = (
        "server/worker.py", "    return Worker(orders).run()",
        f"    import os\n    if orders.sockets and not os.path.exists({str(ready)!r}):\n"
        '        raise OSError("no memory")\n    return Worker(orders).run()',
    )  # fmt: skip
    site.install(site.another("4.0", fails))
    with log_in(daemon.port, "ann") as client, ThreadPoolExecutor() as aside:
        answer = aside.submit(ask, daemon.control, verb="upgrade")
        daemon.wait_for_log("^upgrade: worker 1 failed: OSError: no memory; trying again$")
        daemon.wait_for_log("^worker 1 .* ended")
        for _ in range(4):
            log_in(daemon.port, "bob").__exit__()
        ready.touch()
        (row,) = answer.result(15)[0]["rows"]
        assert row["version"].startswith("4.0+")
        assert client.ask("b NOOP")[-1].startswith("b OK")
        log_in(daemon.port, "bob").__exit__()
    wait_for(lambda: len(daemon.workers) == 2 and sessions(daemon) == 0, "old workers stay")


def test_options_of_the_environment_hold_over_an_upgrade(
    dovecot: Dovecot, tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDITION_OK_LINE", "Welcome from the environment")
    daemon = Site(dovecot, tmp_path, certificates).plain
    text = daemon.program.read_text()
    daemon.program.write_text(
        text.replace("main()", "sys.argv.append('--from_environment'); main()")
    )
    with daemon:
        assert "error" not in ask(daemon.control, verb="upgrade")[-1]
        with Lines.to(daemon.port) as client:
            client.hear()
            assert client.ask("a LOGIN ann canary-ann")[-1] == "a OK Welcome from the environment"


def test_a_program_or_configuration_that_is_not_there_changes_nothing(site: Site) -> None:
    daemon = site.plain
    daemon.program.rename(daemon.program.with_suffix(".away"))
    assert "No such file" in ask(daemon.control, verb="upgrade")[-1]["error"]
    daemon.program.with_suffix(".away").rename(daemon.program)
    daemon.write("conection_limit 7")
    assert "conection_limit" in ask(daemon.control, verb="upgrade")[-1]["error"]
    assert "the old version stays in service" in site.ctl("upgrade", status=1)
    log_in(daemon.port, "ann").__exit__()


def test_old_sessions_are_bounded_by_reload_timeout(site: Site) -> None:
    site.plain.write("reload_timeout 1")
    with log_in(site.plain.port, "ann") as client:
        site.ctl("upgrade")
        assert client.hear().startswith("* BYE") or client.hear() == ""
    wait_for(lambda: len(site.plain.workers) == 2, "old workers stay")


def test_a_key_with_a_passphrase_is_still_open_after_an_upgrade(
    site: Site, need: Callable[[str], str]
) -> None:
    locked = site.folder / "locked.pem"
    subprocess.run(
        [need("openssl"), "pkey", "-in", site.key, "-aes256", "-passout", "pass:canary-key",
         "-out", locked], check=True, capture_output=True,
    )  # fmt: skip
    reader, writer = os.pipe()
    os.write(writer, b"canary-key\n")
    os.close(writer)
    daemon = Daemon(
        site.folder / "locked", "outgoing_server localhost", f"outgoing_port {site.dovecot.port}",
        "ssl_mode ssl_listen", f"ssl_cert_file {site.folder}/cert.pem", f"ssl_key_file {locked}",
        f"ssl_passphrase_fd {reader}", command="perdition.imap4s",
    )  # fmt: skip
    daemon.descriptors = (reader,)
    with daemon:
        os.close(reader)
        assert "error" not in ask(daemon.control, verb="upgrade")[-1]
        log_in(daemon.port, "ann", site.trust).__exit__()
    assert "canary-key" not in daemon.log.read_text()
