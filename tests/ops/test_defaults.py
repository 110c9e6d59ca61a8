"""The defaults file: what is understood means what it means to a shell, and the rest is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdition.errors import ConfigError
from perdition.ops.defaults import Defaults, parse_defaults
from perdition.protocols import PROTOCOLS

SWITCHES = ("RUN_PERDITION", *PROTOCOLS)
LISTS = ("FLAGS", *(f"{protocol}_FLAGS" for protocol in PROTOCOLS))

# Pieces of text, the awkward ones more than the usual ones; most texts of them are refused.
PIECES = st.sampled_from([
    "RUN_PERDITION=yes", "IMAP4=", "IMAP4=no", "FLAGS=", "POP3_FLAGS=", "\nFLAGS=", "export ",
    "export FLAGS", "export LC_ALL=", "yes", "-d", "a", "=", "~", ":", "#", " #", "\t", " ", "  ",
    "\n", ";", "\\", "\\\n", "'", '"', "''", '""', "' '", '" "', "$", "`", "*", "[a]", "?", "!",
    "{a,b}", "%", "\r", "\x0b", "\x1c", "\xa0", "\xe9", "\udce9", "&", "|", "<", ">", "(", ")",
])  # fmt: skip

# Whole lines, of which most are understood.
VALUES = st.lists(st.sampled_from([
    "-d", "a:b", "a~b", "''", "'a b'", "'\t#\n'", "'\\'", "'\xa0'", '"a  b"', '"\\$x\\"\\\\\\a"',
    '"a\\\n b"', "\\ ", "\\#", "\\\n", "#c", "~", ":~", "=", "*", "[!a]", "{a,b}", "%s", "\xe9",
    "\udce9", "yes", "no",
]), max_size=5).map("".join)  # fmt: skip
LINES = st.lists(st.builds(
    "{}{}={}{}".format, st.sampled_from(["", "", "", " ", "export ", "\\\n", "# ", "a #"]),
    st.sampled_from(LISTS), VALUES,
    st.sampled_from(["\n", "\n", ";", " ;\n", " # it's\n", "#\n", " \\\n\n", "  ", ""]),
), max_size=4).map(lambda lines: "RUN_PERDITION=yes\n" + "".join(lines))  # fmt: skip


def understood_by_a_shell(text: str, folder: Path) -> list[list[str]]:
    """Have sh read the file; the switches' values, then the words of each list."""
    folder.joinpath("defaults").write_bytes(os.fsencode(text))
    show = "; ".join(f'printf "%s\\0" ${name}; printf "\\1"' for name in LISTS)
    switches = " ".join(f'"${name}"' for name in SWITCHES)
    done = subprocess.run(
        ["/bin/sh", "-efc", f'. ./defaults\nprintf "%s\\0" {switches}; printf "\\1"; {show}'],
        cwd=folder, env={"PATH": "/nonexistent", "LC_ALL": "C"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), (text, done.stderr)
    groups = os.fsdecode(done.stdout).split("\1")[:-1]
    return [group.split("\0")[:-1] for group in groups]


def same(defaults: Defaults, shell: list[list[str]]) -> bool:
    """Whether both mean the same daemons with the same words."""
    switches, shared, *own = shell
    running, *chosen = switches
    names = [p for p, value in zip(PROTOCOLS, chosen, strict=True) if (value or "yes") == "yes"]
    # printf without words prints one empty word: no list holds an empty word of its own.
    words = {
        protocol: tuple(word for word in (*shared, *more) if word)
        for protocol, more in zip(PROTOCOLS, own, strict=True)
    }
    return (defaults.running == (running == "yes")
            and list(defaults.chosen) == (names if defaults.running else [])
            and defaults.words == words)  # fmt: skip


@given(st.one_of(LINES, LINES, st.lists(PIECES, max_size=14).map("".join)))
@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example("FLAGS=a:~b\n")
@example("FLAGS=~\n")
@example("FLAGS=a~b\n")
@example('"FLAGS"=a\n')
@example('export "FLAGS"=a\n')
@example("FLAGS=a;;IMAP4=no\n")
@example("FLAGS=a \\\n#b\n")
@example("FLAGS=a\\\n#b\n")
@example("FLAGS='a'#b\n")
@example("FLAGS='a\xa0b'\n")
@example("FLAGS='a\x1cb'\n")
@example('FLAGS="a\\\nb\\c\\\\"\n')
def test_what_is_understood_means_the_same_to_a_shell(tmp_path: Path, text: str) -> None:
    try:
        defaults = parse_defaults(text, "defaults")
    except ConfigError as error:
        assert str(error).startswith("defaults:")
        return
    assert same(defaults, understood_by_a_shell(text, tmp_path)), text


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing\n", "RUN_PERDITION=yes", "RUN_PERDITION='yes' ; IMAP4=no # not yet\n",
        'RUN_PERDITION=yes\nFLAGS="-M /usr/lib/x.so \\\n  -m \'a b\'"\nPOP3_FLAGS=-d\n',
        "RUN_PERDITION=yes POP3=no\nexport LC_ALL=C FLAGS='--debug  --quiet'\n",
        "RUN_PERDITION=yes\nIMAP4=\nIMAP4S=No\n", "FLAGS='a#b' #c\nFLAGS=a#b\n",
        "FLAGS=--outgoing_server=a~b:143\n", "FLAGS=back\\ slash\\\\\n",
    ],
)  # fmt: skip
def test_usual_files_are_understood_and_mean_the_same_to_a_shell(text: str, tmp_path: Path) -> None:
    assert same(parse_defaults(text, "defaults"), understood_by_a_shell(text, tmp_path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A=b\0c\n", "1: a NUL byte"),
        ("FLAGS='a\0b'\n", "1: a NUL byte"),
        ("\n\nFLAGS=~/x\n", "3: '~' is not understood here"),
        ("FLAGS=a:~/x\n", "1: '~' is not understood here"),
        ("POP3=no;;IMAP4=no\n", "1: nothing stands before the ;"),
        ("'POP3'=no\n", "1: not an assignment"),
        ("FLAGS=a -d\n", "1: not an assignment"),
        ("FLAGS='a\n\n", "1: the quote ' is not closed"),
        ('FLAGS="$HOME"\n', "1: '$ or `' is not understood here"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_defaults(text, "defaults")
    assert str(error.value).startswith(f"defaults:{complaint}")


def test_what_is_exported_reaches_the_daemons() -> None:
    text = "export LDAPTLS_CACERT=/etc/ssl/ca.pem\nexport LC_ALL\nLC_ALL=C\n"
    with pytest.raises(ConfigError, match="3: unknown name: LC_ALL"):
        parse_defaults(text, "defaults")
    environment = parse_defaults("export LDAPTLS_CACERT=/etc/ssl/ca.pem\n", "d").environment
    assert environment == {"LDAPTLS_CACERT": "/etc/ssl/ca.pem"}
