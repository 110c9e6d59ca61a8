"""Perdition 2.2 and ours play the same dialogues; each difference is listed beside what differs.

All files are played at once in the background, since 2.2 pauses for three seconds after each wrong
command. A difference without a reason fails, and so does a listed one that is no more.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from difflib import unified_diff
from itertools import groupby
from pathlib import Path

import pytest
from tests.compat.dialogue import BOTH, NEW, OLD, Dialogue, DialogueFile, parse, render
from tests.compat.player import Played, Stage, play
from tests.conftest import ROOT

from perdition.protocols import PROTOCOLS

FOLDER = Path(__file__).parent
FILES = {f"{path.parent.name}/{path.stem}": parse(path) for path in sorted(FOLDER.glob("*/*.txt"))}
DIALOGUES = {
    f"{name}: {dialogue.name}": dialogue
    for name, file in FILES.items()
    for dialogue in file.dialogues
}

Running = dict[tuple[str, str], Future[Played]]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, need: Callable[[str], str], certificates: Path
) -> Iterator[Running]:
    """Play the files of all tests to come: 2.2 waits most of the time, ours is work to start."""
    need("perdition")
    wanted = {
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "running" in item.fixturenames
    }
    with (
        tempfile.TemporaryDirectory(prefix="perdition-") as temporary,
        ThreadPoolExecutor(len(FILES)) as old,
        ThreadPoolExecutor(6) as new,
    ):
        os.chmod(temporary, 0o755)
        futures: Running = {}
        for number, (name, file) in enumerate(FILES.items(), 10):
            for pool, who in ((old, OLD), (new, NEW)):
                if name in wanted:
                    folder = Path(temporary) / f"{number}-{who}"
                    stage = Stage(number, folder, certificates, need)
                    futures[name, who] = pool.submit(play, file, who, stage)
        yield futures
        for future in futures.values():
            future.cancel()


def differing(file: DialogueFile, who: str, played: Played) -> str:
    """What was said otherwise than the file has it, for eyes."""
    return "\n".join(
        line
        for dialogue in file.dialogues
        for line in unified_diff(
            [str(line) for line in dialogue.of(who)],
            [str(line) for line in played[dialogue.name]],
            f"{file.protocol}/{file.path.name}, {dialogue.name}",
            {OLD: "Perdition 2.2", NEW: "ours"}[who],
            lineterm="",
        )
    )


@pytest.mark.timeout(90)  # the first waits for all that goes on beside it
@pytest.mark.parametrize("name", FILES)
def test_dialogues(running: Running, name: str) -> None:
    said = [differing(FILES[name], who, running[name, who].result()) for who in (OLD, NEW)]
    assert not any(said), "\n".join(said)


def test_every_reason_is_published_and_every_published_reason_is_in_use() -> None:
    used = {line.reason for dialogue in DIALOGUES.values() for line in dialogue.differences}
    published = re.findall(r"^\| (D\d\d) \|", (ROOT / "docs/migrate.md").read_text(), re.MULTILINE)
    assert sorted(used) == published


@pytest.mark.parametrize("name", DIALOGUES)
def test_what_is_listed_as_a_difference_is_one(name: str) -> None:
    dialogue: Dialogue = DIALOGUES[name]
    for marked, group in groupby(dialogue.lines, lambda line: (line.kind, bool(line.who))):
        lines = list(group)
        texts = [[line.text for line in lines if line.who == who] for who in (OLD, NEW)]
        assert not marked[1] or texts[0] != texts[1], lines
        assert all(line.who == BOTH for line in lines if line.kind == "C")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_written_as_the_recorder_writes_it(name: str) -> None:
    file = FILES[name]
    assert render(file) == file.path.read_text()
    assert len({dialogue.name for dialogue in file.dialogues}) == len(file.dialogues)


def test_every_protocol_has_dialogues() -> None:
    assert {file.protocol.upper() for file in FILES.values()} == set(PROTOCOLS)
