"""--check_config: each rule by a configuration that breaks it and nothing else, line by line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import ROOT as REPOSITORY
from tests.server.test_certificates import DAY, NOW, Made
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port

from perdition.check import ERROR, certificates, judge
from perdition.check.aside import Verdict
from perdition.cli import run
from perdition.config import Config, load
from perdition.log import text_of
from perdition.protocols import PROTOCOLS
from perdition.wire.asking import DIALECTS, lacking

USERS = {"ann": "canary"}
ROOT = Made("the authority", ca=True, days=(-200, 200))


def shown(days: int) -> str:
    """How a certificate's end is written, so many days from now."""
    return (NOW + days * DAY).strftime("%Y-%m-%d %H:%M UTC")


class Case:
    """A sound configuration in a folder, to be spoilt; `check` says what is found."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.file = folder / "p.conf"
        self.certificate("good", days=(-2, 100), names=("localhost",))
        (folder / "ca.pem").write_bytes(ROOT.pem)
        self.lines = [
            "bind_address localhost", "outgoing_server 127.0.0.1", "listen_port 7143",
            "outgoing_port 7144", f"log_facility {folder}/log", f"pid_file {folder}/pid",
            "ssl_mode ssl_listen", f"ssl_cert_file {folder}/good.pem",
            f"ssl_key_file {folder}/good.key", "map_library ''",
            "imap_capability 'IMAP4rev1 IDLE'",
        ]  # fmt: skip

    def certificate(
        self, name: str, days: tuple[int, int] = (-2, 100), names: tuple[str, ...] = ()
    ) -> None:
        """Write NAME.pem with its chain, and NAME.key."""
        made = Made(name, by=ROOT, days=days, names=names)
        (self.folder / f"{name}.pem").write_bytes(made.chain)
        key = self.folder / f"{name}.key"
        key.write_bytes(made.key_pem)
        key.chmod(0o600)

    def without(self, *names: str) -> Case:
        self.lines = [line for line in self.lines if line.split()[0] not in names]
        return self

    def line(self, option: str) -> str:
        """FILE:LINE of an option."""
        number = next(n for n, line in enumerate(self.lines, 1) if line.split()[0] == option)
        return f"{self.file}:{number}"

    def check(
        self, *more: str, words: tuple[str, ...] = (), command: str = "perdition.imap4s"
    ) -> tuple[int, list[str]]:
        """Check with further lines; the exit status and all lines but the last."""
        # What is given again replaces what stands in the sound one: only the rule's own is odd.
        self.without(*(line.split()[0] for line in more))
        self.lines += more
        self.file.write_text("".join(f"{line}\n" for line in self.lines))
        status = run(command, ["--check-config", "-f", str(self.file), *words])
        *found, summary = self._capsys.readouterr().out.splitlines()
        assert summary.startswith(f"{command}: ")
        ordinary = "note: checked by an ordinary user: "
        return status, [line for line in found if not line.startswith(ordinary)]


@pytest.fixture
def case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case(tmp_path, capsys)


def test_a_sound_configuration_has_nothing_to_tell(case: Case) -> None:
    assert case.check(words=("--strict",)) == (0, [])


# Line of the file -> what is said behind LEVEL: FILE:LINE: of it.
RULES: list[tuple[str, str, str]] = [
    (
        "timeout 30", "warning",
        "timeout 30 is under 30 minutes while IDLE is announced: idle clients will be cut off",
    ),
    ("log_passwd ok", "warning", "log_passwd has no effect without debug"),
    (
        "ssl_listen_compression", "warning",
        "ssl_listen_compression has no effect: TLS compression is no longer possible",
    ),
    ("login_disabled", "note", "login_disabled refuses every login"),
    (
        "ssl_mode tls_listen", "note",
        "ssl_mode leaves TLS to the clients; tls_listen_force asks it of all",
    ),
    (
        "ssl_mode ssl_listen,tls_outgoing", "warning",
        "ssl_mode: whoever is between us and a server can take TLS away; tls_outgoing_force "
        "prevents that",
    ),
    (
        "ssl_listen_min_proto_version tlsv1", "warning",
        "ssl_listen_min_proto_version tlsv1: broken versions of TLS are spoken",
    ),
    (
        "ssl_listen_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:AECDH-AES128-SHA@SECLEVEL=0", "warning",
        "ssl_listen_ciphers lets weak ciphers in: AECDH-AES128-SHA",
    ),
    (
        "ssl_listen_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:AES128-GCM-SHA256", "note",
        "ssl_listen_ciphers lets ciphers without forward secrecy in: AES128-GCM-SHA256",
    ),
    (
        "ssl_require_client_cert", "warning",
        "ssl_require_client_cert has no effect without ssl_ca_chain_file: nobody is asked",
    ),
    (
        "client_server_specification", "warning",
        "client_server_specification lets anybody have perdition connect to any host and port",
    ),
    (
        "authenticate_timeout 0", "warning",
        "authenticate_timeout 0: clients that never log in stay for ever",
    ),
    (
        "failed_login_limit 0", "warning",
        "failed_login_limit 0: passwords can be guessed without end on one connection",
    ),
    (
        "greeting_timeout 50", "warning",
        "greeting_timeout 50 is longer than login_timeout 40, which begins no later",
    ),
    (
        "authenticate_timeout 30", "note",
        "authenticate_timeout 30 is over before a slow server's login_timeout 40",
    ),
    (
        "imap_capability IMAP4rev1 AUTH=CRAM-MD5", "warning",
        "imap_capability announces AUTH=CRAM-MD5, which perdition does not know",
    ),
    ("explicit_domain x.org", "note", "explicit_domain has no effect without add_domain"),
    ("pam_timeout 3", "note", "pam_timeout has no effect without authenticate_in"),
    ("query_key '\\u'", "note", "query_key has no effect without map_library"),
    ("pop_capability UIDL", "note", "pop_capability has no effect where IMAP4S is spoken"),
    (
        "ssl_outgoing_ciphers HIGH", "note",
        "ssl_outgoing_ciphers has no effect as ssl_mode has no TLS for servers",
    ),
    (
        "ssl_no_cert_verify", "note",
        "ssl_no_cert_verify has no effect as ssl_mode has no TLS for servers, and clients are not "
        "asked for certificates",
    ),
    ("version", "warning", "version has no effect in a configuration file"),
    ("outgoing_address 192.0.2.77", "error",
     "outgoing_address: 192.0.2.77 is not an address of this host"),
    ("listen_port nosuchservice", "error",
     "Fatal error listening for connections. Exiting. (localhost:nosuchservice: "
     "no such port: 'nosuchservice')"),
    ("username nosuchuser", "error", "username: no such user: 'nosuchuser'"),
    ("group nosuchgroup", "error", "group: no such group: 'nosuchgroup'"),
    ("log_facility /nowhere/log", "error", "log_facility: /nowhere/log can't be written"),
    ("pid_file /nowhere/at/all/pid", "error",
     "pid_file: /nowhere/at/all is not there and can't be made"),
    ("control_socket /nowhere/c.sock", "error",
     "control_socket: /nowhere/c.sock: /nowhere is not there"),
    ("control_socket /etc/passwd", "error",
     "control_socket: /etc/passwd: there is a file of this name, and it is no socket"),
    (f"control_socket /{'x' * 107}", "error",
     f"control_socket: /{'x' * 107}: longer than the 107 bytes that the name of a socket may have"),
    ("metrics_listen /nowhere/m.sock", "error",
     "metrics_listen: /nowhere/m.sock: /nowhere is not there"),
    ("metrics_listen 127.0.0.1:7143", "error",
     "metrics_listen: port 7143 is what clients are to connect to"),
    ("ssl_cert_file /nowhere/c.pem", "error",
     'Error loading certificate chain file "/nowhere/c.pem" (ssl_cert_file): '
     "No such file or directory"),
    ("ssl_listen_ciphers NONSENSE", "error", "ssl_listen_ciphers: no usable cipher in 'NONSENSE'"),
    ("map_library nonsense", "error", "map_library nonsense: unknown map 'nonsense'; known: "),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("line", "level", "text"), RULES, ids=lambda each: each[:40])
def test_rules_by_one_line(case: Case, line: str, level: str, text: str) -> None:
    status, found = case.check(line)
    found = [each for each in found if "where perdition is not started as root" not in each]
    assert len(found) == 1, found
    expected = f"{level}: {case.line(line.partition(' ')[0])}: {text}"
    assert found[0] == expected or (text.endswith(": ") and found[0].startswith(expected))
    assert status == (level == "error")
    if level == "warning":
        assert case.check(words=("--strict",))[0] == 1


def test_passwords_in_the_log(case: Case) -> None:
    _, found = case.check("debug", "log_passwd fail")
    text = "log_passwd writes the passwords of failed logins to the log"
    assert found == [f"warning: {case.line('log_passwd')}: {text}"]


def test_clients_in_clear_text(case: Case) -> None:
    case.without("ssl_cert_file", "ssl_key_file")
    assert case.check("ssl_mode none")[1] == [], "on the loopback interface it is nobody's business"
    _, found = case.check("bind_address 0.0.0.0")
    text = "ssl_mode has no TLS for clients: they send passwords in clear"
    assert found == [f"warning: {case.line('ssl_mode')}: {text}"]


RELAXED = {
    "ssl_no_cert_verify": "anybody in between can be the server, and read passwords",
    "ssl_no_cn_verify": "whoever has any certificate of a known authority can be the server",
    "ssl_cert_accept_self_signed": "anybody in between can be the server, and read passwords",
    "ssl_ca_accept_self_signed": "anybody in between can be the server, and read passwords",
    "ssl_cert_accept_expired": "keys that were given up long ago are still believed",
    "ssl_cert_accept_not_yet_valid": "certificates are believed ahead of their time",
}


@pytest.mark.parametrize("name", RELAXED)
def test_servers_that_are_not_verified(case: Case, name: str) -> None:
    _, found = case.check("ssl_mode ssl_all", name)
    text = f"{name}: {RELAXED[name]}; ssl_ca_file or ssl_outgoing_fingerprint avoid it"
    assert found == [f"warning: {case.line(name)}: {text}"]
    assert case.check(f"ssl_outgoing_fingerprint {'0' * 64}")[1] == []


def test_clients_that_are_not_asked(case: Case) -> None:
    _, found = case.check("ssl_require_client_cert", "ssl_no_client_cert_verify",
                          f"ssl_ca_chain_file {case.folder}/ca.pem")  # fmt: skip
    text = "ssl_require_client_cert has no effect beside ssl_no_client_cert_verify: nobody is asked"
    assert found == [f"warning: {case.line('ssl_require_client_cert')}: {text}"]


def test_nowhere_to_go(case: Case) -> None:
    _, (error, *_) = case.without("outgoing_server").check()
    assert error == "error: nothing says where mail is: there is no outgoing_server and no popmap"


def test_servers_in_clear_text(case: Case) -> None:
    text = "ssl_mode has no TLS for servers: they get passwords in clear"
    _, found = case.check("outgoing_server 192.0.2.1")
    assert found == [f"note: {case.line('ssl_mode')}: {text}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("name", ["username", "group"])
def test_workers_of_root(case: Case, name: str) -> None:
    _, found = case.check(f"{name} root")
    text = f"{name} is root's: what takes clients would own the host"
    assert found == [f"warning: {case.line(name)}: {text}"]


def test_options_for_root_only(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    _, found = case.check("username nobody")
    text = "username has no effect where perdition is not started as root"
    assert found == [f"note: {case.line('username')}: {text}"]


def test_no_syslog(case: Case) -> None:
    _, found = case.check("log_facility mail", "log_socket /nowhere/log")
    text = "log_socket: /nowhere/log: No such file or directory: nothing will be logged"
    assert found == [f"warning: {case.line('log_socket')}: {text}"]


def test_local_authentication_without_rules(case: Case) -> None:
    _, found = case.check("authenticate_in", f"pam_folder {case.folder}")
    text = f"there is no {case.folder}/perdition: PAM takes its rules for other"
    assert found == [f"warning: {case.line('authenticate_in')}: authenticate_in: {text}"]


def test_one_socket_for_two_things(case: Case) -> None:
    path = f"{case.folder}/sock"
    _, found = case.check(f"control_socket {path}", f"metrics_listen {path}")
    text = f"metrics_listen: {path} is the control_socket"
    assert found == [f"error: {case.line('metrics_listen')}: {text}"]


def test_inetd_mode(case: Case) -> None:
    _, found = case.check("inetd_mode")
    names = ["bind_address", "listen_port", "pid_file"]
    assert found == [f"note: {case.line(n)}: {n} has no effect in inetd_mode" for n in names]


# -- where options stand --------------------------------------------------------------------


def test_given_twice_and_outdone(case: Case) -> None:
    case.lines += ["connect_relog 7", "connect_relog 8"]
    first = len(case.lines) - 1
    _, found = case.check(words=("--connect_relog", "9"))
    assert found == [
        f"warning: {case.file}:{first + 1}: connect_relog is given again: this one holds, "
        f"line {first} does not",
        f"note: {case.file}:{first + 1}: connect_relog has no effect here: the command line "
        "outdoes it",
    ]
    assert case.without("connect_relog").check("lower_case all", words=("-t", "30"))[1] == [
        "warning: command line: timeout 30 is under 30 minutes while IDLE is announced: "
        "idle clients will be cut off"
    ]


def test_the_example_in_the_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs/operate.md").read_text().partition("## Checking a configuration")[2]
    given, expected = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "cert.pem").write_bytes(Made("x", by=ROOT, days=(-2, 99)).chain)
    (tmp_path / "key.pem").write_bytes(Made("y").key_pem)
    (tmp_path / "key.pem").chmod(0o644)
    path = tmp_path / "perdition.imap4s.conf"
    path.write_text(given.replace("/etc/perdition", str(tmp_path)))
    # Of the host, not of the example: its name, its syslog and its folders.
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "dmz", "", "", "")))
    words = ["--check-config", "-f", str(path), "-F", "+", "--pid_file", ""]
    assert run("perdition.imap4s", words) == 1
    said = capsys.readouterr().out.replace(str(tmp_path), "/etc/perdition").splitlines()
    if os.geteuid() != 0:
        said = [line for line in said if "ordinary user" not in line]
        expected = expected.replace("1 note", "2 notes")
    assert said == expected.splitlines()


def test_spelling_is_told_with_its_line(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.file.write_text("\nconection_limit 7\ntimeout x\n")
    assert run("perdition.imap4", ["--check-config", "-f", str(case.file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"error: {case.file}:2: conection_limit: unknown option; did you mean connection_limit?",
        f"error: {case.file}:3: timeout: not a number: 'x'",
        "perdition.imap4: not looked at further: 2 errors, no warnings, no notes",
    ]


# -- files ----------------------------------------------------------------------------------


def test_a_key_that_everybody_can_read_or_change(case: Case) -> None:
    key = case.folder / "good.key"
    key.chmod(0o646)
    assert case.check()[1] == [
        f"warning: {case.line('ssl_key_file')}: ssl_key_file: every user of this host can read "
        f"the secret in {key} (mode 0646)",
        f"warning: {case.line('ssl_key_file')}: ssl_key_file: every user of this host can change "
        f"{key}",
    ]


def test_a_configuration_that_everybody_can_change(case: Case) -> None:
    case.file.touch()
    case.file.chmod(0o602)
    assert case.check()[1] == [f"warning: every user of this host can change {case.file}"]


def test_a_configuration_with_a_password_for_all_to_read(case: Case) -> None:
    flat = case.folder / "popmap"
    flat.write_text("ann: 127.0.0.1\n")
    options = ("map_library popmap", f"map_library_opt {flat}")
    text = f"map_library_opt may hold a password: every user of this host can read {case.file}"
    assert case.check(*options) == (0, [f"note: {case.line('map_library_opt')}: {text}"])
    case.file.chmod(0o640)
    assert case.check() == (0, [])
    flat.unlink()
    assert case.check() == (
        1,
        [
            f"error: {case.line('map_library_opt')}: map_library popmap: {flat}: "
            "No such file or directory"
        ],
    )


def test_a_folder_for_the_pid_file_that_can_not_be_written(case: Case) -> None:
    closed = case.folder / "closed"
    closed.mkdir(mode=0o500)
    _, found = case.check(f"pid_file {closed}/pid")
    if os.geteuid() != 0:
        text = f"pid_file: {closed} can't be written"
        assert found == [f"error: {case.line('pid_file')}: {text}"]


# -- certificates ---------------------------------------------------------------------------


def use(case: Case, name: str) -> tuple[int, list[str]]:
    folder = case.folder
    return case.check(f"ssl_cert_file {folder}/{name}.pem", f"ssl_key_file {folder}/{name}.key")


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [
        ((-9, -3), "error", f"expired on {shown(-3)}"),
        ((3, 90), "error", f"is not valid before {shown(3)}"),
        ((-9, 6), "warning", f"expires on {shown(6)}, in 5 days"),
    ],
)
def test_certificates_out_of_time(case: Case, days: tuple[int, int], level: str, text: str) -> None:
    case.certificate("other", days=days, names=("localhost",))
    status, found = use(case, "other")
    where = f"ssl_cert_file: the certificate in {case.folder}/other.pem"
    assert found == [f"{level}: {case.line('ssl_cert_file')}: {where} {text}"]
    assert status == (level == "error")


def test_a_key_of_another_certificate(case: Case) -> None:
    case.certificate("other")
    folder = case.folder
    _, found = case.check(f"ssl_key_file {folder}/other.key")
    assert found == [
        f'error: {case.line("ssl_key_file")}: Error loading private key file "{folder}/other.key": '
        f'it does not belong to the certificate in "{folder}/good.pem"'
    ]


def test_a_name_that_no_certificate_bears(case: Case) -> None:
    case.certificate("other", names=("mail.example.org", "imap.example.org"))
    case.lines += ["ssl_ca_path /"]
    case.without("ssl_ca_path")
    config = configured(case, "bind_address pop.example.org")
    assert [each.text for each in judge(config)] == [
        "no certificate is for pop.example.org, which bind_address names, but for localhost"
    ]
    folder = case.folder / "more"
    folder.mkdir()
    shutil.copy(case.folder / "other.pem", folder)
    (folder / "other.pem").chmod(0o600)
    config = configured(case, "bind_address imap.example.org", f"ssl_cert_folder {folder}")
    assert judge(config) == []


def test_this_hosts_own_name(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "uname", lambda: os.uname_result(("Linux", "dmz.example.org", "", "", ""))
    )
    case.without("bind_address")
    assert case.check()[1] == [
        f"note: {case.line('ssl_cert_file')}: ssl_cert_file: the certificate is for localhost, "
        "this host calls itself dmz.example.org"
    ]


def test_a_certificate_without_its_chain(case: Case) -> None:
    made = Made("leaf", by=ROOT, names=("localhost",), days=(-2, 99))
    (case.folder / "leaf.pem").write_bytes(made.pem)
    (case.folder / "leaf.key").write_bytes(made.key_pem)
    (case.folder / "leaf.key").chmod(0o600)
    path = case.folder / "leaf.pem"
    assert use(case, "leaf")[1] == [
        f"note: {case.line('ssl_cert_file')}: ssl_cert_file: {path} has no certificate of an "
        'authority: who does not know "CN=the authority" refuses it'
    ]


def test_a_certificate_that_is_its_own_authority(case: Case) -> None:
    made = Made("own", names=("localhost",), days=(-2, 99))
    (case.folder / "own.pem").write_bytes(made.pem)
    (case.folder / "own.key").write_bytes(made.key_pem)
    (case.folder / "own.key").chmod(0o600)
    assert use(case, "own")[1] == [
        f"note: {case.line('ssl_cert_file')}: ssl_cert_file: {case.folder}/own.pem is "
        "self-signed: clients must be told"
    ]


def configured(case: Case, *more: str) -> Config:
    """The case's configuration, as a daemon would have it."""
    case.without(*(line.split()[0] for line in more))
    case.file.write_text("".join(f"{line}\n" for line in (*case.lines, *more)))
    return load("perdition.imap4s", ["-f", str(case.file)])


def test_what_time_alone_makes_wrong_is_to_be_expected(case: Case) -> None:
    """A certificate that expires while it is in use keeps no reload from its work."""
    case.certificate("soon", days=(-2, 1), names=("localhost",))
    config = configured(case, f"ssl_cert_file {case.folder}/soon.pem",
                        f"ssl_key_file {case.folder}/soon.key")  # fmt: skip
    later = (NOW + 3 * DAY).timestamp()
    errors = tuple(f.text for f in judge(config, later) if f.level == ERROR)
    forever = tuple(f.text for f in judge(config, float("inf")) if f.level == ERROR)
    assert len(errors) == 1
    in_force = Verdict(expected=forever)
    assert Verdict(errors=errors).new_errors(in_force) == []
    assert Verdict(errors=("another",)).new_errors(in_force) == ["another"]
    assert certificates.SOON > 1


def test_without_the_library_for_certificates_a_note_says_so(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.x509", None)
    status, (only,) = case.check()
    assert status == 0
    assert only.startswith(
        "note: certificates are not looked at: that needs pyOpenSSL (perdition[tls]; Debian: "
        "python3-openssl): "
    )


# -- a reload -------------------------------------------------------------------------------


def test_a_reload_refuses_what_the_check_calls_an_error(case: Case, tmp_path: Path) -> None:
    case.certificate("late", days=(-9, -3), names=("localhost",))
    tls = [f"ssl_cert_file {tmp_path}/good.pem", f"ssl_key_file {tmp_path}/good.key"]
    options = ("outgoing_server 127.0.0.1", "ssl_mode ssl_listen", "workers 1", *tls)
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with Daemon(tmp_path / "d", *options, command="perdition.imap4s") as daemon:
        daemon.write(f"ssl_cert_file {tmp_path}/late.pem", f"ssl_key_file {tmp_path}/late.key")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("^reload failed: the old configuration stays in force$")
        daemon.wait_for_log(
            rf"^reload: ssl_cert_file: the certificate in {tmp_path}/late\.pem expired on "
        )
        with Lines.to(daemon.port, context) as client:
            assert client.hear().startswith("* OK")
        daemon.reload("timeout 30")  # a warning keeps nothing from being in force


def test_a_start_tells_of_a_certificate_that_nobody_will_take(case: Case, tmp_path: Path) -> None:
    case.certificate("late", days=(-9, -3), names=("localhost",))
    tls = [f"ssl_cert_file {tmp_path}/late.pem", f"ssl_key_file {tmp_path}/late.key"]
    options = ("outgoing_server 127.0.0.1", "ssl_mode ssl_listen", "workers 1", *tls)
    with Daemon(tmp_path / "d", *options, command="perdition.imap4s") as daemon:
        where = f"ssl_cert_file: the certificate in {tmp_path}/late.pem"
        assert f"warning: {where} expired on {shown(-3)}" in daemon.lines
        daemon.reload()  # the same again is no reason not to open the log anew


# -- commands -------------------------------------------------------------------------------


def test_the_command_itself_and_that_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "p.conf").write_text("no_lookup\n")
    words = f"-f {tmp_path}/p.conf -F {tmp_path}/log -s 127.0.0.1 -b 127.0.0.1 --map_library="
    (tmp_path / "defaults").write_text(
        f"RUN_PERDITION=yes POP3S=no IMAP4S=no MANAGESIEVE=no FLAGS='{words}'\n"
        "POP3_FLAGS='--conection_limit=3'\n"
    )
    service = [str(BIN / "perdition-service"), "--defaults", f"{tmp_path}/defaults"]
    service += ["--run-dir", str(tmp_path)]
    done = subprocess.run([*service, "check"], capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if "ordinary user" not in line]
    assert (done.returncode, done.stderr) == (1, "")
    assert "error: --conection_limit: unknown option; did you mean --connection_limit?" in said
    assert [line for line in said if line.startswith("perdition.pop3: not looked at")]
    notes = "no notes" if os.geteuid() == 0 else "1 note"
    assert f"perdition.imap4: {tmp_path}/p.conf: no errors, no warnings, {notes}" in said
    assert subprocess.run([*service, "check", "imap4"], check=False).returncode == 0
    assert not list(tmp_path.glob("*.pid")) and not (tmp_path / "log").exists()


# -- servers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dovecot(folder: Path, certificates: Path, need: Callable[[str], str]) -> Iterator[Dovecot]:
    """Dovecot with STARTTLS."""
    with Dovecot(need("dovecot"), folder / "dovecot", USERS, certificates) as server:
        yield server


def ask(case: Case, port: int, *more: str, command: str = "perdition.imap4") -> list[str]:
    """What a probe of localhost:PORT finds, without what is odd anyway."""
    case.without("ssl_cert_file", "ssl_key_file", "imap_capability")
    options = [f"outgoing_port {port}", *more]
    if not any(each.startswith("outgoing_server") for each in more):
        options.append("outgoing_server localhost")
    return case.check(*options, words=("--probe",), command=command)[1]


SECURE = ("none", "tls_outgoing_force", "ssl_outgoing")
WAYS = [(p, mode) for p in ("imap4", "pop3") for mode in SECURE]
WAYS += [("managesieve", mode) for mode in SECURE[:2]]


@pytest.mark.parametrize(("protocol", "mode"), WAYS)
def test_a_server_that_is_in_order(
    case: Case, dovecot: Dovecot, certificates: Path, protocol: str, mode: str
) -> None:
    secure = mode == "ssl_outgoing"
    port = {"imap4": dovecot.imaps if secure else dovecot.port,
            "pop3": dovecot.pop3s if secure else dovecot.pop3,
            "managesieve": dovecot.sieve}[protocol]  # fmt: skip
    option = PROTOCOLS[protocol.upper()].capability
    own = {"imap4": "IMAP4rev1 IDLE", "pop3": "UIDL.TOP", "managesieve": '"SIEVE" "fileinto"'}
    authority = [f"ssl_ca_file {certificates}/ca.pem"] if mode != "none" else []
    command = f"perdition.{protocol}"
    more = (f"ssl_mode {mode}", f"{option} {quoted(own[protocol])}", *authority)
    assert ask(case, port, *more, command=command) == []
    # The same, and more than the server can do.
    much = {"imap4": "IMAP4rev1 X-MUCH", "pop3": "UIDL.X-MUCH",
            "managesieve": '"SIEVE" "fileinto x-much"  "X-MUCH"'}  # fmt: skip
    said = ask(case, port, f"{option} {quoted(much[protocol])}", command=command)
    words = "SIEVE X-MUCH, X-MUCH" if protocol == "managesieve" else "X-MUCH"
    where = f"localhost:{port} (127.0.0.1) does not before a login"
    assert without_ipv6(said) == [
        f"warning: {case.line(option)}: {option} announces {words}, {where}"
    ]


def quoted(value: str) -> str:
    return "'" + value + "'"


def without_ipv6(said: list[str]) -> list[str]:
    """Dovecot listens on IPv4 only, which is told where localhost has both."""
    return [line for line in said if "(::1)" not in line]


def test_a_server_that_is_not_there(case: Case) -> None:
    port = free_port()
    said = ask(case, port, "ssl_mode none", "outgoing_server 127.0.0.1,no.such.invalid")
    place = case.line("outgoing_server")
    assert without_ipv6(said) == [
        f"error: {place}: outgoing_server: 127.0.0.1:{port}: Connection refused",
        f"error: {place}: outgoing_server: no.such.invalid:{port}: no address: "
        "Name or service not known",
        f"note: {case.line('ssl_mode')}: ssl_mode has no TLS for servers: they get passwords in "
        "clear",
    ]


def test_a_server_whose_certificate_is_refused(
    case: Case, dovecot: Dovecot, certificates: Path
) -> None:
    more = ("ssl_mode ssl_outgoing", "imap_capability IMAP4rev1")
    said = ask(case, dovecot.imaps, *more)
    where = (
        f"{case.line('outgoing_server')}: outgoing_server: localhost:{dovecot.imaps} (127.0.0.1)"
    )
    why = "unable to get local issuer certificate"
    assert without_ipv6(said) == [f"error: {where}: its certificate is refused: {why}"]
    said = ask(case, dovecot.imaps, f"ssl_outgoing_fingerprint {'0' * 64}")
    assert without_ipv6(said)[0].startswith(
        f"error: {case.line('outgoing_server')}: outgoing_server: localhost:{dovecot.imaps} "
        "(127.0.0.1): its certificate is refused: key not in ssl_outgoing_fingerprint: "
    )


@pytest.mark.parametrize(
    ("script", "mode", "level", "text"),
    [
        ([b"220 smtp ESMTP\r\n"], "none", "error", "greets with '220 smtp ESMTP'"),
        ([b""], "none", "error", "closes the connection without a greeting"),
        ([b"* OK hi\r\n", b"b NO not here\r\n"], "tls_outgoing_force", "error",
         "refuses STARTTLS, which ssl_mode asks for"),
        ([b"* OK hi\r\n", b"b BAD ?\r\n", b"* CAPABILITY IMAP4rev1\r\na OK\r\n"], "tls_outgoing",
         "warning", "refuses STARTTLS: it gets passwords in clear"),
        ([b"x" * 70_000], "none", "error", "its greeting is longer than 65536 bytes"),
    ],
)  # fmt: skip
def test_servers_that_are_none(
    case: Case, script: list[bytes], mode: str, level: str, text: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            with listening.accept()[0] as sock, suppress(OSError):  # it may go in the middle
                for answer in script:
                    sock.sendall(answer)
                    if script[-1] is not answer:
                        sock.recv(4096)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        more = ("outgoing_server 127.0.0.1", "imap_capability IMAP4rev1", f"ssl_mode {mode}")
        said = ask(case, port, *more)
        thread.join()
    colon = "" if level == "warning" else ":"
    place = case.line("outgoing_server")
    assert f"{level}: {place}: outgoing_server: 127.0.0.1:{port}{colon} {text}" in said


def test_a_map_whose_service_does_not_answer(case: Case) -> None:
    port = free_port()
    more = ("map_library tcp", f"map_library_opt tcp:127.0.0.1:{port}")
    case.file.touch(mode=0o600)
    case.file.chmod(0o600)
    assert case.check(*more) == (0, []), "nobody is asked unless told to"
    case.without("outgoing_server")
    status, (error, *_) = case.check(words=("--probe",))
    assert status == 1
    assert error.startswith(f"error: {case.line('map_library_opt')}: map_library: ")
    assert "refused" in error


def test_capabilities_that_count() -> None:
    answer = b"* CAPABILITY IMAP4rev1 literal+\r\na OK done\r\n"
    option = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN IDLE"
    assert lacking(DIALECTS["imap4"], option, answer) == ["IDLE"]
    answer = b"+OK\r\nUIDL\r\nSASL PLAIN\r\n.\r\n"
    assert lacking(DIALECTS["pop3"], "UIDL.USER.EXPIRE 7", answer) == ["EXPIRE"]
    assert text_of(DIALECTS["pop3"].goodbye) == "QUIT\r\n"
