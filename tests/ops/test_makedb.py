"""makegdbm and makebdb: files of ours are read by 2.2's tools, files of 2.2's by ours."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from tests.conftest import lacking
from tests.servers.daemon import BIN

from perdition.popmap import registry
from perdition.popmap.base import Query, route_of

OURS, THEIRS = BIN, Path("/usr/bin")
TOOLS = ("makegdbm", "makebdb")
LINES = b"jo:mail1.example\nan@x.org:an@mail2.example:7\n\n j : k \n#c:1\nempty:\nno colon\n:x\n"


def run(tool: Path, *words: str | Path, text: bytes = b"") -> tuple[int, bytes, str]:
    done = subprocess.run([tool, *words], input=text, capture_output=True, timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> str:
    if not (THEIRS / request.param).exists():
        lacking(f"{request.param} of 2.2 is not installed: see tests/packages.txt")
    return str(request.param)


def shown(place: Path, tool: str, path: Path) -> set[bytes]:
    """The lines of a file as a tool prints them; 2.2's has NULs in between."""
    status, out, _ = run(place / tool, "-u", path)
    assert status == 0
    return {line for line in out.replace(b"\0", b"").split(b"\n") if line}


def test_both_ways(tool: str, tmp_path: Path) -> None:
    for place in (OURS, THEIRS):
        assert run(place / tool, tmp_path / place.name, text=LINES)[0] == 0
    made_by_us, made_by_them = tmp_path / OURS.name, tmp_path / THEIRS.name
    expected = {b"jo:mail1.example", b"an@x.org:an@mail2.example:7", b" j : k ", b"#c:1"}
    expected |= {b"empty:"} if tool == "makebdb" else set()
    for path in (made_by_us, made_by_them):
        assert shown(OURS, tool, path) == shown(THEIRS, tool, path)
        # 2.2's makebdb takes a line without a key; no user has an empty name.
        assert shown(OURS, tool, path) - {b":x"} == expected
        popmap = registry.make(tool.removeprefix("make"), str(path))
        assert popmap.lookup(Query(b"an@x.org")) == route_of(b"an@mail2.example:7")
        popmap.close()


def test_complaints_are_those_of_2_2(tool: str, tmp_path: Path) -> None:
    text = b"a:1\nbad\n:x\na:2\n"
    ours = run(OURS / tool, tmp_path / "ours", text=text)
    theirs = run(THEIRS / tool, tmp_path / "theirs", text=text)
    assert (ours[0], theirs[0]) == (0, 0)
    invalid = f"{tool}: invalid input on line: "
    assert ours[2].splitlines()[0] == theirs[2].splitlines()[0].strip() == f"{invalid}2"
    assert f"{invalid}3" in ours[2]
    assert f"{tool}: duplicate key: a" in ours[2]
    for words in ((), ("a", "b")):
        assert run(OURS / tool, *words)[0] == run(THEIRS / tool, *words)[0] == 255
    assert run(OURS / tool, "--help")[0] == 0
    assert run(OURS / tool, "-u", tmp_path / "none")[0] == 255


def test_the_last_line_counts_without_its_end(tool: str, tmp_path: Path) -> None:
    assert run(OURS / tool, tmp_path / "map", text=b"a:1\nb:2") == (0, b"", "")
    assert shown(OURS, tool, tmp_path / "map") == {b"a:1", b"b:2"}


def test_the_new_file_takes_the_place_of_the_old_at_once(tool: str, tmp_path: Path) -> None:
    path = tmp_path / "map"
    run(OURS / tool, path, text=b"a:1\n")
    path.chmod(0o640)
    before = path.stat().st_ino
    popmap = registry.make(tool.removeprefix("make"), str(path))
    assert popmap.lookup(Query(b"a")) == route_of(b"1")
    assert run(OURS / tool, path, text=b"a:2\n")[0] == 0
    after = path.stat()
    assert (after.st_ino != before, stat.S_IMODE(after.st_mode)) == (True, 0o640)
    assert popmap.lookup(Query(b"a")) == route_of(b"2")
    popmap.close()
    assert [each.name for each in tmp_path.iterdir()] == ["map"]
    assert run(OURS / tool, tmp_path / "no" / "map", text=b"a:1\n")[0] == 255


def test_a_link_to_the_file_stays_one(tool: str, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    link, path = tmp_path / "link", tmp_path / "maps" / "map"
    link.symlink_to(path)
    for text in (b"a:1\n", b"a:2\n"):
        assert run(OURS / tool, link, text=text)[0] == 0
        assert link.is_symlink()
        assert shown(OURS, tool, path) == {text.strip()}


def test_a_missing_library_is_one_line(tool: str) -> None:
    """Run as where neither Berkeley DB's bindings nor GNU dbm are installed."""
    code = (
        "import ctypes, sys\n"
        "sys.modules.update(dict.fromkeys(('berkeleydb', 'bsddb3')))\n"
        "def none(*_): raise OSError('libgdbm.so.6: cannot open shared object file')\n"
        "ctypes.CDLL = none\n"
        "sys.argv[1:] = ['-u', '/none']\nfrom perdition.ops import makedb\n"
        f"makedb.main_{tool.removeprefix('make')}()\n"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code], capture_output=True, timeout=20, check=False, text=True
    )
    assert done.returncode == 255
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{tool}: a library is missing: ")
