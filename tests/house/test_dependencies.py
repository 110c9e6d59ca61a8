"""What the program is made of: each thing is declared, bounded, and told to who has to judge it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules whose distribution has another name.
MODULES = {
    "OpenSSL": "pyOpenSSL", "cryptography": "pyOpenSSL", "bsddb3": "berkeleydb",
    "ldap": "python-ldap", "pymysql": "PyMySQL", "re2": "google-re2",
}  # fmt: skip
TOOLS = ("demo", "built", "dev")  # extras that no installation has


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[; ]", requirement)[0]


def extras() -> dict[str, list[str]]:
    found: dict[str, list[str]] = PROJECT["optional-dependencies"]
    return {name: needs for name, needs in found.items() if name not in TOOLS}


def imported() -> set[str]:
    """The modules from elsewhere that the program imports, at whatever moment."""
    found = set()
    for path in (ROOT / "src/perdition").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names} - {"perdition"}


def test_one_thing_is_needed_and_the_rest_is_asked_for() -> None:
    assert [name_of(each) for each in PROJECT["dependencies"]] == ["setproctitle"]


def test_everything_has_an_oldest_version() -> None:
    for requirement in (*PROJECT["dependencies"], *(n for ns in extras().values() for n in ns)):
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement


def test_nothing_is_imported_that_is_not_declared() -> None:
    declared = {name_of(n) for ns in (PROJECT["dependencies"], *extras().values()) for n in ns}
    assert {MODULES.get(name, name) for name in imported()} == declared


def test_the_documents_name_all_of_it() -> None:
    page = Path(ROOT / "docs/security.md").read_text().partition("## What it is made of")[2]
    told = set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))
    assert told == {
        name_of(n) for ns in (PROJECT["dependencies"], *extras().values()) for n in ns
    }  # fmt: skip
