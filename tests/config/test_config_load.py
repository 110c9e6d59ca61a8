"""From names and words to a Config: look-up, precedence, what depends on the protocol, rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdition.config import Config, load, warnings
from perdition.config.fields import Option
from perdition.config.file import quote
from perdition.config.options import LETTERS, OPTIONS
from perdition.config.readers import show
from perdition.errors import ConfigError
from perdition.protocols import SslMode, TlsUse
from perdition.route import Server
from perdition.username import AddDomain, State


def configured(
    directory: Path, *argv: str, text: str = "", argv0: str = "perdition.imap4"
) -> Config:
    (directory / "perdition.conf").write_text(text)
    return load(argv0, list(argv), config_dir=str(directory))


def problems(directory: Path, *argv: str, text: str = "") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        configured(directory, *argv, text=text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("argv0", "names"),
    [
        ("/usr/sbin/perdition.imaps", ["perdition.imaps", "perdition.imap4s", "perdition"]),
        ("perdition.imap4s", ["perdition.imap4s", "perdition"]),
        ("perdition.foo", ["perdition.foo", "perdition.pop3", "perdition"]),
        ("perdition", ["perdition.pop3", "perdition"]),
        ("perdition.managesieve", ["perdition.managesieve", "perdition"]),
    ],
)
def test_the_first_file_that_exists_is_read(tmp_path: Path, argv0: str, names: list[str]) -> None:
    files = [tmp_path / f"{name}.conf" for name in names]
    for number, file in enumerate(files, 1):
        file.write_text(f"timeout {number}\n")
    (tmp_path / "unrelated.conf").write_text("xyzzy\n")
    for number, file in enumerate(files, 1):
        config = load(argv0, [], config_dir=str(tmp_path))
        assert (config.timeout, config.config_path) == (number, str(file))
        file.unlink()
    config = load(argv0, [], config_dir=str(tmp_path))
    assert (config.timeout, config.config_path) == (1800, "")


def test_the_file_is_found_by_name_not_by_protocol(tmp_path: Path) -> None:
    (tmp_path / "perdition.imap4s.conf").write_text("timeout 1\n")
    (tmp_path / "perdition.pop3.conf").write_text("timeout 2\n")
    assert load("perdition", ["-P", "IMAP4S"], config_dir=str(tmp_path)).timeout == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.conf"
    assert problems(tmp_path, "-f", str(missing)) == (f"{missing}: No such file or directory",)
    assert problems(tmp_path, "-f", str(tmp_path)) == (f"{tmp_path}: Is a directory",)
    (tmp_path / "perdition.imap4.conf").mkdir()
    assert problems(tmp_path) == (f"{tmp_path}/perdition.imap4.conf: Is a directory",)
    huge = tmp_path / "huge.conf"
    huge.write_bytes(b"#" * (1 << 21))
    assert problems(tmp_path, "-f", str(huge)) == (f"{huge}: longer than 1048576 bytes",)


def test_problems_of_both_sources_are_told(tmp_path: Path) -> None:
    assert problems(tmp_path, "--xyzzy", text="timeout x\n") == (
        "--xyzzy: unknown option",
        f"{tmp_path}/perdition.conf:1: timeout: not a number: 'x'",
    )


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_can_be_given_and_the_command_line_wins(tmp_path: Path, name: str) -> None:
    option = OPTIONS[name]
    if option.argv_only:
        assert configured(tmp_path, text=f"{name} x\n") == configured(tmp_path)
        return
    if option.is_flag:
        assert getattr(configured(tmp_path, text=name), name) is True
        assert getattr(configured(tmp_path, f"--{name}", text=f"{name} no\n"), name) is True
        return
    value = _another(option)
    assert option.read(show(value)) == value != option.default
    text = f"{name} {quote(show(value))}\n"
    assert getattr(configured(tmp_path, text=text), name) == value
    default = show(option.default)
    text = f"{name} {quote(default)}\n" if default and not option.adds else ""
    config = configured(tmp_path, f"--{name}", show(value), text=text)
    assert getattr(config, name) == value
    assert name in config.given


def _another(option: Option) -> object:
    """A value that is not the default."""
    if option.name in _WORDS:
        return _WORDS[option.name]
    if option.example:
        return option.read(option.example)
    return option.default + 1 if isinstance(option.default, int) else f"/x{option.default}"


_WORDS = {
    "log_facility": "local7",
    "forward_client": "never",
    "log_format": "json",
    "log_passwd": "fail",
    "protocol": "IMAP4S",
    "ssl_listen_min_proto_version": "tlsv1.1",
    "ssl_outgoing_min_proto_version": "sslv3",
}


def test_all_options_of_2_2_are_there_with_their_letters() -> None:
    for word in (Path(__file__).parent / "options-2.2.txt").read_text().split():
        name, _, letter = word.partition(":")
        assert name in OPTIONS or name == OPTIONS["server_resp_line"].alias
        assert not letter or LETTERS[letter].name == name


def test_accumulating_options_add_up_within_a_source(tmp_path: Path) -> None:
    text = """
        add_domain servername_lookup,2
        add_domain remote_login
        strip_domain local_auth
        strip_domain REMOTE_LOGIN
        ssl_mode ssl_listen
        ssl_mode tls_outgoing
        outgoing_server a
        outgoing_server b:imap,[2001:db8::1]:143,user@c
    """
    config = configured(tmp_path, text=text)
    assert config.add_domain == AddDomain(State.SERVERNAME_LOOKUP | State.REMOTE_LOGIN, 2)
    assert config.strip_domain == State.LOCAL_AUTHENTICATION | State.REMOTE_LOGIN
    assert config.ssl_mode == SslMode(TlsUse.SSL, TlsUse.TLS)
    assert config.outgoing_server == (
        Server("b", "imap"), Server("2001:db8::1", "143"), Server("c"),
    )  # fmt: skip
    config = configured(tmp_path, "-A", "all", "--ssl_mode", "none", "-s", "d", text=text)
    assert config.add_domain == AddDomain(State.ALL, 1)
    assert config.ssl_mode == SslMode()
    assert config.outgoing_server == (Server("d"),)


def test_capability_of_the_command_line_wins_over_the_files_details(tmp_path: Path) -> None:
    config = configured(tmp_path, "-I", "x", text="imap_capability y\n")
    assert config.imap_capability == config.managesieve_capability == "x"


@pytest.mark.parametrize(
    ("argv0", "argv", "ports", "mode"),
    [
        ("perdition.imap4", [], ("imap", "imap"), "none"),
        ("perdition.imaps", [], ("imaps", "imaps"), "ssl_all"),
        ("perdition.imaps", ["-n"], ("993", "993"), "ssl_all"),
        ("perdition.imaps", ["--ssl_mode", "ssl_listen"], ("imaps", "imaps"), "ssl_listen"),
        ("perdition.imaps", ["--ssl_mode", "none"], ("imaps", "imaps"), "none"),
        ("perdition.imaps", ["-P", "MANAGESIEVE"], ("sieve", "sieve"), "none"),
        ("perdition", ["-l", "1143", "-p", "143"], ("1143", "143"), "none"),
        ("anything", ["-n", "-p", ""], ("110", "110"), "none"),
        ("perdition", ["--ssl_mode", "tls_all,tls_listen_force"], ("pop3", "pop3"), ""),
    ],
)
def test_what_depends_on_the_protocol(
    tmp_path: Path, argv0: str, argv: list[str], ports: tuple[str, str], mode: str
) -> None:
    config = configured(tmp_path, *argv, argv0=argv0)
    assert (config.listen_port, config.outgoing_port) == ports
    assert show(config.ssl_mode) == (mode or "tls_listen_force,tls_outgoing")
    assert config.basename == argv0.rpartition("/")[2]
    assert config.pid_file == f"/var/run/{config.basename}/{config.basename}.pid"


def test_no_pid_file_when_it_is_empty(tmp_path: Path) -> None:
    assert configured(tmp_path, "--pid_file", "").pid_file == ""


def test_relative_files_are_taken_from_the_starting_directory(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("ssl_cert_file cert.pem\nssl_key_file /k.pem\n")
    config = load("perdition", ["-f", "a.conf"], directory=str(tmp_path))
    assert config.ssl_cert_file == str(tmp_path / "cert.pem")
    assert (config.ssl_key_file, config.ssl_ca_file) == ("/k.pem", "")
    assert config.config_file == config.config_path == str(tmp_path / "a.conf")
    (tmp_path / "b.conf").write_text("ssl_cert_file cert.pem\n")
    config = load("perdition", ["-f", str(tmp_path / "b.conf")])
    assert config.ssl_cert_file == os.path.join(os.getcwd(), "cert.pem")


def test_the_passphrase_comes_from_one_place(tmp_path: Path) -> None:
    both = "ssl_passphrase_file /p\nssl_passphrase_fd 5\n"
    assert configured(tmp_path).ssl_passphrase_fd == 0
    config = configured(tmp_path, text=both)  # 2.2 accepts it in a file: the file of the two wins
    assert (config.ssl_passphrase_file, config.ssl_passphrase_fd) == ("/p", None)
    config = configured(tmp_path, "--ssl_passphrase_fd", "7", text=both)
    assert (config.ssl_passphrase_file, config.ssl_passphrase_fd) == ("", 7)
    assert problems(tmp_path, "--ssl_passphrase_fd=7", "--ssl_passphrase_file=/p") == (
        "ssl_passphrase_fd and ssl_passphrase_file: only one of them may be given",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "ssl_listen_max_proto_version tlsv1.1",
            "ssl_listen_min_proto_version is greater than ssl_listen_max_proto_version",
        ),
        (
            "ssl_outgoing_min_proto_version TLSv1.3\nssl_outgoing_max_proto_version tlsv1.2",
            "ssl_outgoing_min_proto_version is greater than ssl_outgoing_max_proto_version",
        ),
        (
            "ssl_mode tls_listen\nssl_key_file ''",
            "ssl_cert_file and ssl_key_file are needed: ssl_mode has TLS for clients",
        ),
        ("line_limit 9000\npipeline_limit 8999", "pipeline_limit is smaller than line_limit"),
    ],
)
def test_impossible_combinations(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text=text) == (problem,)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], []),
        (["-a"], []),
        (["-M", ""], []),
        (["-t", "30"], []),
        (["-t", "30", "--imap_capability", "X idle"], ["idle"]),
        (["-t", "0", "--imap_capability", "IDLE"], []),
        (["-t", "1800", "--imap_capability", "IDLE"], []),
        (["-t", "1799", "-I", "A IDLE"], ["idle"]),
        (["-t", "30", "-I", "A IDLE", "-P", "POP3"], []),
        (
            ["--ssl_listen_compression"],
            ["ssl_listen_compression has no effect: TLS compression is no longer possible"],
        ),
        (["-C"], ["connection_logging has no effect without debug"]),
        (["-Cd", "--log_passwd=ok"], []),
    ],
)
def test_warnings(tmp_path: Path, argv: list[str], expected: list[str]) -> None:
    config = configured(tmp_path, *argv)
    idle = (
        f"timeout {config.timeout} is under 30 minutes while IDLE is announced: "
        "idle clients will be cut off"
    )
    assert warnings(config) == [idle if each == "idle" else each for each in expected]


def test_an_obsolete_option_warns_and_a_working_one_does_not(tmp_path: Path) -> None:
    for name, option in OPTIONS.items():
        if option.argv_only:
            continue
        value = show(True if option.is_flag else _another(option))
        said = warnings(configured(tmp_path, text=f"debug\n{name} {quote(value)}\n"))
        assert any(line.startswith(f"{name} has no effect") for line in said) == bool(
            option.obsolete
        )


def test_loading_brings_in_nothing_heavy() -> None:
    """Every start in inetd mode pays for what is imported here."""
    program = (
        "import sys, perdition.config as c; c.load('x', ['-f', '/dev/null']); print(*sys.modules)"
    )
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=15).stdout
    assert "perdition.config.load" in loaded.split()
    heavy = {"asyncio", "ssl", "socket", "logging", "argparse", "difflib", "textwrap"}
    assert not heavy & set(loaded.split())


def test_the_environment_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "perdition.conf").write_text("timeout 1\noutgoing_port 1\nlisten_port 1\n")
    for name, value in {
        "PERDITION_TIMEOUT": "2", "PERDITION_OUTGOING_PORT": "2", "PERDITION_NO_LOOKUP": "yes",
        "PERDITION_PID_FILE": "", "PERDITION_PROTOCOL": "IMAP4S", "PERDITION_QUIET": "no",
        "PERDITION_PORT_993_TCP": "tcp://10.0.0.1:993", "PERDITION_SERVICE_HOST": "10.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    words = ["--from_environment", "--timeout", "3"]
    config = load("perdition", words, config_dir=str(tmp_path))
    assert (config.timeout, config.outgoing_port, config.listen_port) == (3, "2", "1")
    assert (config.no_lookup, config.quiet, config.pid_file) == (True, False, "")
    assert config.protocol == "IMAP4S"
    config = load("perdition", [], config_dir=str(tmp_path))
    assert (config.timeout, config.no_lookup, config.protocol) == (1, False, "POP3")
    monkeypatch.setenv("PERDITION_TIMOUT", "2")
    monkeypatch.setenv("PERDITION_timeout", "2")
    monkeypatch.setenv("PERDITION_WORKERS", "many")
    with pytest.raises(ConfigError) as trouble:
        load("perdition", words, config_dir=str(tmp_path))
    assert list(trouble.value.problems) == [
        "PERDITION_TIMOUT: unknown option; did you mean timeout?",
        "PERDITION_WORKERS: not a number: 'many'",
        "PERDITION_timeout: unknown option; did you mean timeout?",
    ]
