"""The wheel in a virtual environment of its own, as pipx makes one: commands, pages, files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.documents.pages import block

from perdition import __version__
from perdition.protocols import COMMANDS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def installed(wheel: Path, folder: Path) -> Path:
    """Give the folder of a fresh environment with the wheel and what it depends on."""
    place = folder / "venv"
    for words in (
        [sys.executable, "-m", "venv", str(place)],
        [f"{place}/bin/pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return place


def said(installed: Path, *words: str) -> str:
    done = subprocess.run(
        [installed / "bin" / words[0], *words[1:]], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_commands(installed: Path) -> None:
    for command in ("perdition", *COMMANDS):
        assert said(installed, command, "--version") == f"perdition {__version__}\n"
    assert "Usage: perdition" in said(installed, "perdition.imap4s", "--help")
    for command in ("perditionctl", "perdition-service", "makegdbm"):
        assert "sage: " in said(installed, command, "--help")
    for kind in ("ldap", "mysql", "odbc", "postgresql"):
        assert said(installed, f"perditiondb_{kind}_makedb", "--print")


def test_pages_units_and_samples_are_in_share(installed: Path, tmp_path: Path) -> None:
    for theirs, ours in (
        ("man", "man"), ("bash-completion", "bash-completion"), *(
            (f"perdition/{name}", name) for name in
            ("default", "etc", "fail2ban", "grafana", "ldap", "pam.d", "prometheus", "systemd",
             "sysusers.d")
        ),
    ):  # fmt: skip
        for path in (ROOT / "share" / ours).rglob("*"):
            copy = installed / "share" / theirs / path.relative_to(ROOT / "share" / ours)
            assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    assert {each.name for each in (ROOT / "share").iterdir()} == {
        "man", "bash-completion", "default", "etc", "fail2ban", "grafana", "ldap", "pam.d",
        "prometheus", "systemd", "sysusers.d",
    }  # fmt: skip
    for page in (
        "man1/perditionctl.1",
        "man1/makegdbm.1",
        "man5/perditiondb.5",
        "man8/perdition-service.8",
    ):
        assert (installed / "share/man" / page).exists()
    # As the page has it, with a folder in the place of the root.
    commands = block("docs/install.md", "cd ").text.splitlines()[1:]
    assert len(commands) == 2
    for command in commands:
        words = command.replace(" /etc/", f" {tmp_path}/etc/").split()
        subprocess.run(words, cwd=installed / "share/perdition", check=True)
    assert (tmp_path / "etc/systemd/system/perdition.service").exists()
    assert (tmp_path / "etc/default/perdition").exists()
