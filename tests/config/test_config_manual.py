"""What is written about the options: complete, up to date, and without secrets."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.conftest import required

from perdition.config import load
from perdition.config.manual import dump, generated, help_text, man_page
from perdition.config.options import OPTIONS
from perdition.ops import pages

ROOT = Path(__file__).parents[2]


FILES = {"perdition.config.manual": generated(), "perdition.ops.pages": pages.generated()}


@pytest.mark.parametrize("path", sorted(path for files in FILES.values() for path in files))
def test_generated_files_are_up_to_date(path: str) -> None:
    (text,) = (files[path] for files in FILES.values() if path in files)
    assert (ROOT / path).read_text() == text, "run make manual"


@pytest.mark.parametrize("module", FILES)
def test_the_generator_writes_where_it_is_told(module: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", module, str(tmp_path)], check=True, timeout=15)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(FILES[module])


def test_every_command_has_a_page_that_groff_likes() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for command in scripts:
        (page,) = (ROOT / "share/man").glob(f"man?/{command}.?")
        done = subprocess.run(
            [required("groff"), "-man", "-ww", "-z", page], cwd=ROOT / "share/man",
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == "", page


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_is_in_the_help(name: str) -> None:
    assert re.search(rf"--{name}[ :]", help_text())


def test_help_fits_a_terminal() -> None:
    assert max(len(line) for line in help_text().splitlines() if " -" not in line[:4]) <= 79


def test_man_page_is_clean_roff() -> None:
    required("groff")
    page = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-c"],
        input=man_page(), capture_output=True, text=True, check=True, timeout=15,
    )  # fmt: skip
    assert page.stderr == ""
    plain = re.sub(".\b", "", page.stdout)
    assert r"query_key '\u,\D\d'" in plain
    assert "--connection_limit LIMIT" in plain


def test_every_example_of_the_sample_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "c.conf"
    lines = (ROOT / "share/etc/perdition/perdition.conf").read_text().splitlines(keepends=True)
    examples = [at for at, line in enumerate(lines) if re.match("#[a-z]", line)]
    assert len(examples) > 70
    for at in examples:
        path.write_text("".join([*lines[:at], lines[at][1:], *lines[at + 1 :]]))
        config = load("perdition.imap4", ["-f", str(path)])
        assert lines[at][1:].split()[0] in config.given


def test_dump_has_2_2s_form() -> None:
    argv = ["-f", "/dev/null", "-d", "-A", "all,2", "--ssl_mode", "ssl_listen", "-s", "a,[::1]:1"]
    plain, tls = dump(load("perdition.imap4", argv))
    assert plain.startswith(
        'add_domain="all,2", address_connection_limit=1000, authenticate_in=off, '
    )
    assert ', debug=on, domain_delimiter="@", ' in plain
    assert ', outgoing_server="a,[::1]:1", ' in plain
    assert tls.startswith('ssl_mode="ssl_listen", ssl_ca_accept_self_signed=off, ')
    assert "ssl_" not in plain
    assert dump(load("perdition.imap4", argv)) == (plain, tls)


def test_the_option_of_a_map_is_shown_nowhere() -> None:
    config = load("perdition.imap4", ["-f", "/dev/null", "-m", "h:0:db:t:u:s3cret"])
    assert 'map_library_opt="***"' in dump(config)[0]
    assert "s3cret" not in "".join(dump(config)) + repr(config)
