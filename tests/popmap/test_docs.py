"""Every example in docs/popmaps.md is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.popmap.battery import query
from tests.popmap.test_contract import driver
from tests.servers.daemon import BIN

from perdition.popmap import registry
from perdition.popmap.base import route_of

TEXT = (ROOT / "docs/popmaps.md").read_text()
SECTIONS = {
    section.split("\n", 1)[0]: section
    for section in TEXT.split("\n## ")[1:]
    if "    map_library " in section
}
# Kinds whose example is whole: with it alone the user ann has the server 127.0.0.1:1143.
WHOLE = ("popmap", "gdbm", "bdb", "cdb", "posix_regex", "sqlite", "command")


def test_every_kind_is_there() -> None:
    assert SECTIONS.keys() == registry.KINDS.keys()


def block(section: str, kind: str) -> str | None:
    found = re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    return found[1] if found else None


def option(section: str) -> str:
    found = re.search(r"^    map_library_opt (.*)$", section, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("kind", sorted(SECTIONS))
def test_the_options_are_understood(kind: str, tmp_path: Path) -> None:
    driver(kind)
    section = SECTIONS[kind]
    assert f"    map_library {kind}\n" in section
    registry.map_class(kind)(option(section).replace("FOLDER", str(tmp_path)))


@pytest.mark.parametrize("kind", WHOLE)
def test_the_example_works(kind: str, tmp_path: Path) -> None:
    driver(kind)
    section = SECTIONS[kind].replace("FOLDER", str(tmp_path))
    flat = block(SECTIONS["popmap"], "popmap")
    assert flat
    (tmp_path / "popmap").write_text(flat.replace("FOLDER", str(tmp_path)))
    for language, name, mode in (("regex", "popmap.re", 0o644), ("script", "where", 0o755)):
        if text := block(section, language):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(mode)
    if command := block(section, "sh"):
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        subprocess.run(["sh", "-e", "-c", command], check=True, timeout=20, env={"PATH": path})
    popmap = registry.make(kind, option(section))
    assert popmap.lookup(query(b"ann")) == route_of(b"127.0.0.1:1143")
    assert popmap.lookup(query(b"nobody")) is None
    popmap.close()
