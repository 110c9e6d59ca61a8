"""The house's own rules: sizes, where a protocol's name may stand, where faults are caught."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.conftest import ROOT

SOURCE = ROOT / "src/perdition"
FILES = sorted(SOURCE.rglob("*.py"))
LINES_OF_A_FILE = 450
LINES_OF_A_FUNCTION = 50
# Where any exception is caught.
DOORS = {"desk.py", "login.py", "master.py", "poller.py", "stepped.py"}
# Options and commands are named after protocols; what they mean is nobody else's business.
NAMES_PROTOCOLS = {"wire", "config", "ops", "protocols.py", "__init__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_can_be_read_at_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    tree = ast.parse(text)
    long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION
    ]
    assert long == []
    assert ast.get_docstring(tree) or not tree.body, "no module docstring"


def test_a_protocol_is_named_only_where_it_is_spoken() -> None:
    naming = {
        path.relative_to(SOURCE).parts[0]
        for path in FILES
        if re.search(r"imap|pop3|sieve", path.read_text(), re.IGNORECASE)
    }
    assert naming <= NAMES_PROTOCOLS


def test_any_exception_is_caught_at_five_doors_only() -> None:
    doors = [path.name for path in FILES if "except Exception" in path.read_text()]
    assert set(doors) == DOORS
    assert len(doors) == sum(path.read_text().count("except Exception") for path in FILES)


def test_documents_point_at_files_that_there_are() -> None:
    broken = []
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
