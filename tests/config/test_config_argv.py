"""The command line: popt's forms, and every complaint."""

from __future__ import annotations

import pytest

from perdition.config import Config, load
from perdition.errors import ConfigError


def configured(*argv: str) -> Config:
    return load("perdition.imap4", [*argv, "-f", "/dev/null"])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--timeout", "7"], {"timeout": 7}),
        (["--timeout=7"], {"timeout": 7}),
        (["-t", "7"], {"timeout": 7}),
        (["-t7"], {"timeout": 7}),
        (["-t=7"], {"timeout": 7}),
        (["-Bnt", "7"], {"no_bind_banner": True, "no_lookup": True, "timeout": 7}),
        (["-Bnt7"], {"no_bind_banner": True, "no_lookup": True, "timeout": 7}),
        (["--timeout="], {"timeout": 0}),
        (["--timeout", ""], {"timeout": 0}),
        (["--timeout", "007"], {"timeout": 7}),
        (["-t", "8", "--timeout=9", "-t7"], {"timeout": 7}),
        (["--ok_line", "--debug"], {"ok_line": "--debug", "debug": False}),
        (["--ok_line=a=b c"], {"ok_line": "a=b c"}),
        (["-O=", "-d"], {"ok_line": "", "debug": True}),
        (["--server_ok_line"], {"server_resp_line": True}),
        (["--log_passwd", "ALWAYS", "--protocol", "imap4s"], {"log_passwd": "always"}),
        (["--capability", "x"], {"imap_capability": "x", "pop_capability": "x", "capability": "x"}),
        (["-I", "x", "--imap_capability", "y"], {"imap_capability": "y", "pop_capability": "x"}),
        (["--imap_capability", "y", "-I", "x"], {"imap_capability": "x"}),
    ],
)
def test_forms_that_work(argv: list[str], expected: dict[str, object]) -> None:
    config = configured(*argv)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--time=7"], "--time: unknown option; did you mean --timeout?"),
        (["--no-lookup"], "--no-lookup: unknown option; did you mean --no_lookup?"),
        (["--DEBUG"], "--DEBUG: unknown option; did you mean --debug?"),
        (["--xyzzy"], "--xyzzy: unknown option"),
        (["-z"], "-z: unknown option"),
        (["-timeout"], "-t: not a number: 'imeout'"),
        (["--no_lookup=1"], "--no_lookup: takes no value"),
        (["-n=1"], "-=: takes no value"),
        (["--timeout"], "--timeout: missing value"),
        (["-t"], "-t: missing value"),
        (["--timeout", "-7"], "--timeout: not a number: '-7'"),
        (["junk"], "junk: neither an option nor the value of one"),
        (["-"], "-: neither an option nor the value of one"),
        (["--", "-d"], "-d: neither an option nor the value of one"),
        (["-O", "a\nb"], "-O: control character in the value"),
        (["-O", "\udcff"], "-O: not UTF-8"),
    ],
)
def test_forms_that_are_refused(argv: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("perdition.imap4", ["-f", "/dev/null", *argv])
    assert caught.value.problems == (problem,)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        configured("--xyzzy", "-t", "x", "junk")
    assert caught.value.problems == (
        "--xyzzy: unknown option",
        "-t: not a number: 'x'",
        "junk: neither an option nor the value of one",
    )


@pytest.mark.parametrize("word", ["--help", "-h", "--version"])
def test_help_and_version_need_no_file(word: str) -> None:
    config = load("perdition", [word, "-f", "/nonexistent"])
    assert config.help or config.version
