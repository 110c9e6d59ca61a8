"""The Debian packages in a clean Debian: installed, upgraded from 2.2 and back, removed, purged.

systemd is the first process there, 2.2 is Debian's own, the configuration is that of the page
docs/howto-dmz.md, and every step ends in a login at a Dovecot, or in looking at what is left.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.conftest import ROOT, required
from tests_package.box import Box
from tests_package.conftest import MAPS, Boxes

from perdition import __version__

pytestmark = pytest.mark.timeout(300)

USER, PASSWORD = "kim", 'se cr"et'
PAGE = (ROOT / "docs/howto-dmz.md").read_text()
DOVECOT = """\
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:/srv/mail/%u
service imap-login {
  inet_listener imap {
    port = PORT
  }
}
passdb {
  driver = passwd-file
  args = /etc/dovecot/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=/srv/mail/%u
}
"""
CONFIGURATION = "/etc/perdition/perdition.imap4s.conf"
DEFAULTS = "/etc/default/perdition"
WRITTEN = (DEFAULTS, "/etc/perdition/popmap")  # by the administrator, or by a test for one
DROP_IN = "/etc/systemd/system/perdition.service.d/from-2.2.conf"


def block(first: str) -> str:
    """The page's block that begins so, word for word."""
    found = re.search(rf"^```\w*\n({re.escape(first)}.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


class Host:
    """The how-to's host, with the mail server on it, too."""

    def __init__(self, certificates: Path, *, port: int = 143) -> None:
        self.certificates = certificates
        self.port = port
        self.tls = ("--tls", str(certificates / "ca.pem"), USER, PASSWORD)

    def prepare(self, box: Box) -> None:
        """Give it users and the certificates."""
        box.write("/etc/dovecot/dovecot.conf", DOVECOT.replace("PORT", str(self.port)))
        box.write("/etc/dovecot/users", f"{USER}:{{PLAIN}}{PASSWORD}::\n")
        box.path("/srv/mail").mkdir(mode=0o777)
        box.path("/srv/mail").chmod(0o777)
        for name in ("cert.pem", "key.pem", "dhparm.pem"):
            text = (self.certificates / name).read_text()
            box.write(f"/etc/ssl/dmz/{name}", text, 0o600 if name == "key.pem" else 0o644)

    def configure(self, box: Box) -> None:
        """Write the page's two files."""
        text = block("outgoing_server").replace("[IP OF DOVECOT SERVER]", "127.0.0.1")
        assert "outgoing_port 143\n" in text
        box.write(CONFIGURATION, text.replace("/path/to", "/etc/ssl/dmz"))
        box.write(DEFAULTS, block("RUN_PERDITION"))


@pytest.fixture
def host(certificates: Path) -> Host:
    return Host(certificates)


def active(box: Box, unit: str = "perdition") -> str:
    return box("systemctl", "is-active", unit, check=False).stdout.strip()


def ours(files: dict[str, str]) -> list[str]:
    return sorted(path for path in files if "perdition" in path.lower())


def install(box: Box, *names: str) -> str:
    """Install our packages; nothing may be asked or fail, whatever apt's exit status says."""
    said = box.apt("install", *(f"/srv/deb/{each}_{__version__}_all.deb" for each in names))
    assert not re.search(r"(?i)error|traceback|conffile|not started", said), said
    assert box.version() == __version__
    # All is as it was packed but what administrators write.
    changed = box("dpkg", "--verify", *names, check=False).stdout.splitlines()
    assert [line for line in changed if line.split(" c ")[-1] not in WRITTEN] == []
    return said


def old_version(box: Box) -> str:
    said = box("apt-cache", "policy", "perdition").stdout
    found = re.search(r"^ (?:\*\*\*|   ) (2\.2\S+) ", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def is_removed_cleanly(box: Box, before: dict[str, str]) -> None:
    """Remove, purge and clear out; the box must be what it was."""
    names = box("sh", "-c", "dpkg-query -W -f '${Package} ' 'perdition*'").stdout.split()
    said = box.apt("remove", *names)
    assert not re.search(r"(?i)error|traceback", said), said
    assert box.titles() == []
    assert not box("sh", "-c", "ls -d /run/perdition*", check=False).stdout
    said = box.apt("purge", *names)
    assert not re.search(r"(?i)error|traceback|not empty", said), said
    box.apt("autoremove", "--purge")
    after = box.files()
    for path in (CONFIGURATION, DEFAULTS):
        after.pop(path, None) if path in before else None
    assert {path: what for path, what in after.items() if before.get(path) != what} == {}
    assert sorted(before.keys() - after.keys()) == []
    assert "perdition" not in box.path("/etc/passwd").read_text()
    assert "perdition" not in box.path("/etc/group").read_text()
    assert not box.path("/var/log/perdition").exists()
    box("systemctl", "daemon-reload")
    assert box("systemctl", "--failed", "--no-legend").stdout == ""


def test_the_packages_are_what_debian_asks_for(packages: Path) -> None:
    assert {each.name for each in packages.glob("*.deb")} == {
        f"{name}_{__version__}_all.deb" for name in ("perdition", *(f"perdition-{m}" for m in MAPS))
    }
    (changes,) = packages.glob("*.changes")
    done = subprocess.run(
        [required("lintian"), "--allow-root", "--fail-on", "error,warning", changes],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    newer = ["dpkg", "--compare-versions", __version__, "gt", "2.2-3.2+b1"]
    assert subprocess.run(newer, check=False).returncode == 0


def test_commands_are_where_those_of_2_2_are(packages: Path, boxes: Boxes) -> None:
    """Every path that 2.2's packages have, but for its libraries and what is on its own."""
    box = boxes()
    names = ("perdition", *(f"perdition-{each}" for each in MAPS))
    box.apt("install", *names)
    box.write(DEFAULTS, "RUN_PERDITION=no\n")
    old = {path for name in names for path in box("dpkg", "-L", name).stdout.split()}
    install(box, *names)
    new = {path for name in names for path in box("dpkg", "-L", name).stdout.split()}
    gone = {path for path in old - new if not path.startswith(("/usr/lib/", "/usr/share/doc/"))}
    assert gone == {"/etc/default"}
    for path in sorted(new):
        if re.match(r"/usr/s?bin/.", path) and "makebdb" not in path and "makegdbm" not in path:
            said = box(path, "--help").stdout
            assert "sage" in said, path
    # The map's drivers are there, and make what 2.2's made.
    box.write("/etc/perdition/popmap", "kim:127.0.0.1\n")
    box("sh", "-c", "cd /etc/perdition && makegdbm popmap.gdbm.db <popmap")
    box("sh", "-c", "cd /etc/perdition && makebdb popmap.bdb.db <popmap")
    for kind in ("gdbm", "bdb"):
        explained = box("perdition.imap4", "--map_library", f"/usr/lib/libperditiondb_{kind}.so.0",
                        "--explain", "kim").stdout  # fmt: skip
        assert "127.0.0.1" in explained
    for kind in MAPS:
        said = box(f"perditiondb_{kind}_makedb", "--print").stdout
        assert said


def test_a_new_host(boxes: Boxes, host: Host) -> None:
    """Nothing runs until it is told to; then the how-to's daemon does, as a user of its own."""
    box = boxes(host.prepare)
    before = box.files()
    install(box, "perdition")
    assert (active(box), box.titles()) == ("inactive", [])
    assert box("systemctl", "is-enabled", "perdition", check=False).stdout.strip() == "disabled"
    assert "RUN_PERDITION=no" in box.path(DEFAULTS).read_text()
    verified = box(
        "systemd-analyze", "verify", "--man=no", "perdition.service", "perdition@imaps.service"
    )
    assert (verified.stdout, verified.stderr) == ("", "")
    host.configure(box)
    box("perdition-service", "check")
    box("systemctl", "enable", "--now", "perdition")
    host_is_served(box, host)
    owners = box("sh", "-c", "ps -C perdition.imaps -o user= | sort -u").stdout.split()
    assert owners in (["perdition"], ["perditi+"]) or set(owners) == {"perditi+"}, owners
    # A package of 3 takes over from the one that runs, and no session ends.
    pid = box("systemctl", "show", "-P", "MainPID", "perdition").stdout
    with box.held(993, *host.tls):
        said = box.apt("install", "--reinstall", f"/srv/deb/perdition_{__version__}_all.deb")
        assert not re.search(r"(?i)error|traceback|old version", said), said
        box.login(993, *host.tls)
    assert box("systemctl", "show", "-P", "MainPID", "perdition").stdout == pid
    host_is_served(box, host)
    box("systemctl", "disable", "--now", "perdition")
    box("systemctl", "enable", "--now", "perdition@imaps")
    box.wait_for_login(993, *host.tls)
    is_removed_cleanly(box, before)
    install(box, "perdition")
    assert (active(box), box.titles()) == ("inactive", [])


def host_is_served(box: Box, host: Host) -> None:
    """The one daemon of the how-to runs under the right name, and its log says what it should."""
    box.wait_for_login(993, *host.tls)
    assert active(box) == "active"
    assert "perdition.imaps: daemon" in box.titles()
    assert [title for title in box.titles() if not title.startswith("perdition.imaps")] == []
    status = box("systemctl", "status", "--no-pager", "perdition").stdout
    assert "perdition.imaps: daemon" in status
    said = box(
        "journalctl", "--no-pager", "-o", "short", "-t", "perdition.imaps", "-n", "30"
    ).stdout
    assert re.search(r'perdition\.imaps\[\d+\]: Auth: 127\.0\.0\.1:\d+->.*status="ok"', said), said


def test_an_upgrade_from_2_2_and_the_way_back(boxes: Boxes, host: Host) -> None:
    box = boxes(host.prepare)
    before = box.files()
    box.apt("install", "perdition", "perdition-ldap")
    old = old_version(box)
    assert box.version() == old
    host.configure(box)
    box.write("/etc/perdition/popmap", "kim:127.0.0.1\n")
    box("systemctl", "restart", "perdition")
    host_is_served_by_2(box, host)
    names = (DEFAULTS, CONFIGURATION, "/etc/perdition/popmap", "/etc/perdition/perdition.conf")
    kept = {name: box.path(name).read_bytes() for name in names}

    install(box, "perdition", "perdition-ldap")
    assert {name: box.path(name).read_bytes() for name in kept} == kept
    host_is_served(box, host)
    assert box("systemctl", "is-enabled", "perdition").stdout.strip() == "enabled"
    assert not box.path(DROP_IN).exists(), "the how-to needs nothing but the unit"
    assert box("perdition", "--version").stdout == f"perdition {__version__}\n"
    assert not box("sh", "-c", "ls -d /run/perdition.*", check=False).stdout

    said = box.apt("install", "--allow-downgrades", f"perdition={old}", f"perdition-ldap={old}")
    assert not re.search(r"(?i)conffile|traceback", said), said
    assert box.version() == old
    assert {name: box.path(name).read_bytes() for name in kept} == kept
    host_is_served_by_2(box, host)

    install(box, "perdition", "perdition-ldap")
    host_is_served(box, host)
    box.path(CONFIGURATION).unlink()
    is_removed_cleanly(box, before)
    install(box, "perdition")
    assert (active(box), box.titles()) == ("inactive", [])


def host_is_served_by_2(box: Box, host: Host) -> None:
    box.wait_for_login(993, *host.tls)
    assert [title for title in box.titles() if title.startswith("perdition.imaps: daemon")]
    assert "version=2.2" in box("journalctl", "--no-pager", "-t", "perdition.imaps").stdout
    assert box("systemctl", "status", "--no-pager", "perdition", check=False).stdout.count(
        "generated"
    )


def test_an_upgrade_that_needs_more_than_the_unit(boxes: Boxes, certificates: Path) -> None:
    """All daemons, of which two have no certificate; a user for the workers; a key in a home."""
    host = Host(certificates, port=10143)
    box = boxes(host.prepare)
    box("systemctl", "start", "dovecot")
    before = box.files()
    box.apt("install", "perdition")
    box.write(DEFAULTS, box.path(DEFAULTS).read_text() + (
        'FLAGS="--username mail --ssl_key_file /root/key.pem --no_lookup'
        ' --outgoing_server 127.0.0.1 --outgoing_port 10143"\n'
        "POP3_FLAGS='-l 110' POP3S_FLAGS='-l 995' IMAP4_FLAGS='-l 143' IMAP4S_FLAGS='-l 993'\n"
        "MANAGESIEVE_FLAGS='-l 4190'\n"
    ))  # fmt: skip
    # 2.2 can't change the owner of its pid files' folders.
    box("sh", "-c", "systemctl stop perdition; rm -rf /run/perdition.*; systemctl start perdition")
    box.wait_for_login(143, USER, PASSWORD)
    ran = {title.partition(":")[0] for title in box.titles()}
    assert ran == {"perdition.imap4", "perdition.pop3", "perdition.managesieve"}
    said = install(box, "perdition")
    assert DROP_IN in said
    drop_in = box.path(DROP_IN).read_text()
    assert re.search(r"^# perdition\.imap4: username mail: ", drop_in, re.MULTILINE)
    assert re.search(r"^# perdition\.imap4: ssl_key_file /root/key.pem: ", drop_in, re.MULTILINE)
    assert {"User=root", "ProtectHome=read-only"} <= set(drop_in.splitlines())
    assert re.search(r"^# perdition\.pop3s: can't start now", drop_in, re.MULTILINE)
    box.wait_for_login(143, USER, PASSWORD)
    assert {title.partition(":")[0] for title in box.titles()} == ran
    assert active(box) == "active"
    users = set(box("sh", "-c", "ps -C perdition.imap4 -o user=").stdout.split())
    assert users == {"root", "mail"}
    # A driver that comes later may mend what could not start: what is needed is found anew.
    box.write(DROP_IN, f"{drop_in}\nLimitNOFILE=1024\n")
    install(box, "perdition-mysql")
    assert box.path(DROP_IN).read_text() == drop_in
    box.wait_for_login(143, USER, PASSWORD)
    box.apt("purge", "perdition-mysql")
    # 2.2 takes over again, with nothing of ours in its way.
    box.apt("install", "--allow-downgrades", f"perdition={old_version(box)}")
    assert not box.path(DROP_IN).parent.exists()
    box.wait_for_login(143, USER, PASSWORD)
    install(box, "perdition")
    box.wait_for_login(143, USER, PASSWORD)
    is_removed_cleanly(box, before)


def test_a_host_without_systemd(boxes: Boxes, host: Host) -> None:
    """The init script does it all, from 2.2's to ours and back."""
    box = boxes(host.prepare, boot=False)
    box("sh", "-c", "rm -f /usr/sbin/policy-rc.d; dovecot")
    box.apt("install", "perdition")
    host.configure(box)
    box("/etc/init.d/perdition", "restart")
    box.wait_for_login(993, *host.tls)
    install(box, "perdition")
    box.wait_for_login(993, *host.tls)
    assert "perdition.imaps: daemon" in box.titles()
    said = box("/etc/init.d/perdition", "status").stdout
    assert "perdition.imaps: running" in said
    box("/etc/init.d/perdition", "reload")
    box.wait_for_login(993, *host.tls)
    box.apt("install", "--allow-downgrades", f"perdition={old_version(box)}")
    box.wait_for_login(993, *host.tls)
    install(box, "perdition")
    box.wait_for_login(993, *host.tls)
    box.apt("purge", "perdition")
    assert box.titles() == []
    assert box("sh", "-c", "ls -d /run/perdition* /etc/rc?.d/*perdition", check=False).stdout == ""
    install(box, "perdition")
    assert box.titles() == []
