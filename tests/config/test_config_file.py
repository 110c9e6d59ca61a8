r"""The configuration file: 2.2's grammar row by row, every complaint, and any bytes at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import lacking

from perdition.config import Config, load
from perdition.config.file import quote
from perdition.config.options import LONG_NAMES
from perdition.errors import ConfigError

SHIPPED = Path("/etc/perdition/perdition.conf")  # Debian's package perdition, 2.2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.conf"


def configured(path: Path, content: str | bytes) -> Config:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load("perdition.imap4", ["-f", str(path)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("timeout 7\n", {"timeout": 7}),
        ("t 7\n", {"timeout": 7}),
        ("timeout\t7\n", {"timeout": 7}),
        ('"timeout" 7\n', {"timeout": 7}),
        ("'timeout' 7\n", {"timeout": 7}),
        ("timeout=7\n", {"timeout": 7}),
        ('timeout ""\n', {"timeout": 0}),
        ("timeout=\n", {"timeout": 0}),
        ("timeout 7# x\n", {"timeout": 7}),
        ("timeout 7 # x\n", {"timeout": 7}),
        ("ok_line hello   big world  \n", {"ok_line": "hello   big world"}),
        ("ok_line a#b\n", {"ok_line": "a"}),
        ("ok_line a\\#b\n", {"ok_line": "a#b"}),
        ('ok_line "a # b"\n', {"ok_line": "a # b"}),
        ('ok_line "he said \\"x\\""\n', {"ok_line": 'he said "x"'}),
        ("ok_line 'a\\b'\n", {"ok_line": "a\\b"}),
        ('ok_line "a\\b\\\\c"\n', {"ok_line": "ab\\c"}),
        ("ok_line a\\bc\n", {"ok_line": "abc"}),
        ("ok_line he\"ll o\"w'or ld'x\n", {"ok_line": "hell owor ldx"}),
        ("ok_line abc \\\ndef\n", {"ok_line": "abc def"}),
        ("ok_line abc\\\n   def\n", {"ok_line": "abc   def"}),
        ("ok_line \\\n   def\n", {"ok_line": "   def"}),
        ('ok_line "ab\ncd"\n', {"ok_line": "abcd"}),
        ('ok_line "ab\\\ncd"\n', {"ok_line": "abcd"}),
        ("ok_line 'ab\ncd'\n", {"ok_line": "abcd"}),
        ('ok_line ""\n', {"ok_line": ""}),
        ('ok_line a "b "  \n', {"ok_line": "a b "}),
        ("ok_line a\\ \n", {"ok_line": "a "}),
        ("ok_line =a\n", {"ok_line": "=a"}),
        ("ok_line=a=b\n", {"ok_line": "a=b"}),
        ("query_key '\\U,\\u'\n", {"query_key": ("\\U", "\\u")}),
        ('query_key "\\\\U,\\\\u"\n', {"query_key": ("\\U", "\\u")}),
        ("query_key \\U,\\u\n", {"query_key": ("U", "u")}),
        ("# it's a \"comment\n\n  # indented\ntimeout 7\n", {"timeout": 7}),
        ("# a longer \\\ntimeout 7\n", {"timeout": 1800}),
        ("# not longer \\\\\ntimeout 7\n", {"timeout": 7}),
        ("\\\ntimeout 7\n", {"timeout": 7}),
        ('\\\n\n""\ntimeout 7\n', {"timeout": 7}),
        ("timeout 7\r\ndebug\r\n", {"timeout": 7, "debug": True}),
        ("timeout 7\rdebug\r", {"timeout": 7, "debug": True}),
        ("ok_line a\x0bb\n".replace("\x0b", "\xa0"), {"ok_line": "a\xa0b"}),
        # What 2.2 stumbled over and is taken now.
        ("  timeout 7\n", {"timeout": 7}),
        ("timeout 7", {"timeout": 7}),
        ("timeout 7\\", {"timeout": 7}),
        ("debug yes\nno_lookup ON\nlogin_disabled True\n", {"debug": True, "no_lookup": True}),
        ("debug\ndebug off\nno_lookup No\nn=false\n".replace("n=", "n "), {"debug": False}),
        ("debug=on\n", {"debug": True}),
        # Ignored, as in 2.2.
        ("help\nh\nconfig_file /nonexistent\nf\nversion\ntimeout 7\n", {"timeout": 7}),
    ],
)
def test_grammar(path: Path, content: str, expected: dict[str, object]) -> None:
    config = configured(path, content)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\n\nxyzzynicate 1\n", "3: xyzzynicate: unknown option"),
        ("timeuot 1\n", "1: timeuot: unknown option; did you mean timeout?"),
        ("--timeout 7\n", "1: --timeout: unknown option; did you mean timeout?"),
        ("-t 7\n", "1: -t: unknown option"),
        ("t=7\n", "1: t: unknown option"),
        ("z 7\n", "1: z: unknown option"),
        ('"ok_line a"\n', "1: ok_line a: unknown option; did you mean ok_line?"),
        ('"" 7\n', "1: a value without an option"),
        ("connection_limit x\n", "1: connection_limit: not a number: 'x'"),
        ("L x\n", "1: L: not a number: 'x'"),
        ("timeout +7\n", "1: timeout: not a number: '+7'"),
        ("timeout ٧\n", "1: timeout: not a number: '٧'"),
        ("timeout 7 8\n", "1: timeout: not a number: '7 8'"),
        ("timeout 99999999999\n", "1: timeout: not between 0 and 2147483647: '99999999999'"),
        ("line_limit 3\n", "1: line_limit: not between 512 and 1048576: '3'"),
        ("timeout\ndebug\n", "1: timeout: missing value"),
        ("debug\ntimeout", "2: timeout: missing value"),
        ("ok_line=a b\n", "1: ok_line: more than one value; quote a value that holds blanks"),
        ("no_lookup maybe\n", "1: no_lookup: neither on nor off: 'maybe'"),
        ('debug ""\n', "1: debug: neither on nor off: ''"),
        ('debug\nok_line "a\ntimeout 7\n', "2: a quote is opened and never closed"),
        ("ok_line it's\n", "1: a quote is opened and never closed"),
        ("ok_line a\x00b\n", "1: ok_line: control character in the value"),
        ("ssl_mode xyzzy\n", "1: ssl_mode: unknown mode: 'xyzzy'"),
        ('ssl_mode ""\n', "1: ssl_mode: unknown mode: ''"),
        ("ssl_mode ssl_listen,tls_listen\n", "1: ssl_mode: ssl_listen and tls_listen exclude "),
        ("ssl_mode ssl_all\nssl_mode tls_outgoing_force\n", "2: ssl_mode: ssl_outgoing and tls_"),
        ("lower_case xyzzy\n", "1: lower_case: unknown state: 'xyzzy'"),
        ("add_domain all, 1\n", "1: add_domain: unknown state: ' 1'"),
        ("add_domain all,500\n", "1: add_domain: not between 0 and 127: '500'"),
        ("protocol SMTP\n", "1: protocol: not one of IMAP4, IMAP4S, POP3, POP3S, MANAGESIEVE: "),
        ("log_passwd sometimes\n", "1: log_passwd: not one of never, fail, ok, always: 'someti"),
        ("pid_file rel/x.pid\n", "1: pid_file: must start with /: 'rel/x.pid'"),
        ("log_facility xyzzy\n", "1: log_facility: neither a syslog facility nor /FILE, - or +"),
        ("outgoing_server [IP OF SERVER]\n", "1: outgoing_server: not a server: '[IP OF SERVE"),
        ('outgoing_server ""\n', "1: outgoing_server: no host in ''"),
        ("outgoing_server a,,b\n", "1: outgoing_server: no host in ''"),
        ("bind_address ::1:http:x]\n", "1: bind_address: not a server: '::1:http:x]'"),
        ("bind_address [::1\n", "1: bind_address: not a server: '[::1'"),
        ("outgoing_server a:99999\n", "1: outgoing_server: no such port: '99999'"),
        ("listen_port 1 2\n", "1: listen_port: not a port: '1 2'"),
        ('domain_delimiter ""\n', "1: domain_delimiter: may not be empty"),
        ("query_key '\\U,\\x'\n", r"1: query_key: an escape other than \U \u \d \D \i \p \I \P \\"),
        ("ssl_listen_min_proto_version ''\n", "1: ssl_listen_min_proto_version: not one of sslv3"),
        ("ssl_outgoing_min_proto_version x\n", "1: ssl_outgoing_min_proto_version: not one of ss"),
        ("ssl_cert_verify_depth x\n", "1: ssl_cert_verify_depth: not a number: 'x'"),
    ],
)
def test_refusals(path: Path, content: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(path, content)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}:{problem}")


def test_all_problems_of_a_file_in_their_order(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(path, "timeout x\nxyzzy\n\nok_line \\\n  a\nssl_mode y\n")
    assert caught.value.problems == (
        f"{path}:1: timeout: not a number: 'x'",
        f"{path}:2: xyzzy: unknown option",
        f"{path}:6: ssl_mode: unknown mode: 'y'",
    )


def test_bytes_that_are_no_text_are_let_pass_in_comments_only(path: Path) -> None:
    assert configured(path, b"# \xe4\nok_line \xc3\xa4\n").ok_line == "ä"
    with pytest.raises(ConfigError, match="1: ok_line: not UTF-8"):
        configured(path, b"ok_line \xe4\n")


def test_a_long_bad_value_is_not_repeated_whole(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(path, f"timeout {'x' * 5000}\n")
    assert len(str(caught.value)) < len(str(path)) + 150


def test_a_problem_never_shows_the_option_of_a_map(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(path, "map_library_opt=a:s3cret b\nm 's3cret\n")
    assert "s3cret" not in str(caught.value)


_WORDS = st.sampled_from(
    [*LONG_NAMES, "t", "d", "m", " ", "\t", "\n", "\r", "=", '"', "'", "\\", "#", ",", "7", "all"]
)
_CONTENT = st.binary() | st.lists(_WORDS | st.text(max_size=4)).map(
    lambda words: "".join(words).encode("utf-8", "surrogatepass")
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=_CONTENT)
def test_any_bytes_load_or_are_refused(path: Path, content: bytes) -> None:
    try:
        config = configured(path, content)
    except ConfigError as error:
        assert error.problems
    else:
        assert isinstance(config, Config)


@given(value=st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_a_quoted_value_is_read_back(path: Path, value: str) -> None:
    assert configured(path, f"ok_line {quote(value)}\n").ok_line == value
    assert configured(path, f"ok_line={quote(value)}").ok_line == value


def test_the_file_that_debian_ships(path: Path) -> None:
    if not SHIPPED.exists():
        lacking(f"{SHIPPED} is missing: install Debian's package perdition")
    text = SHIPPED.read_text()
    configured(path, text)
    names = "|".join([*LONG_NAMES, "[A-Za-z]"])
    example = rf"^#(?:(?=(?:{names})(?: .*)?$)| (?=(?:M|map_library) [/\"]))"
    examples = [match.start() for match in re.finditer(example, text, re.MULTILINE)]
    assert len(examples) >= 100
    for at in examples:
        assert configured(path, text[:at] + text[at + 1 :]).given > {"config_file"}
    sieve = text.replace("#managesieve_capability", "managesieve_capability")
    capability = configured(path, sieve).managesieve_capability
    assert capability.startswith('"IMPLEMENTATION" "perdition"  "SIEVE" "comparator-i;octet ')
    assert capability.endswith('date"  "SASL" "PLAIN"  "NOTIFY" "mailto"  "VERSION" "1.18"')
