"""What a change must not slip back from: our ratios to the yardstick, as they were recorded.

Ratios of medians over rounds in turn are the same on a slower or busier machine, near enough; a row
that seems to have grown is measured again before it is believed. The instructions of a login are
counted, and so have little slack: for what another release of Python makes of the same lines.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.report import OURS, YARDSTICK, Results

RECORDED = Path(__file__).parent / "recorded.json"
SLACK = 1.3  # times the recorded ratio
AGAIN = 2  # times that a row is measured again
MORE = 1.1  # times the recorded instructions
_KINDS = ("login-", "fetch-", "append-", "noop-", "idle-")


def _ratios(results: Results) -> dict[str, float]:
    found = {}
    for row in dict.fromkeys(row for row, _ in results.samples):
        ratio = results.ratio(row, OURS, YARDSTICK)
        if row.startswith(_KINDS) and ratio is not None:
            found[row] = round(ratio.median, 3)
    return found


def _instructions(results: Results) -> dict[str, int]:
    return {
        f"instructions-{kind}": round(sum(files.values()))
        for kind, files in results.instructions.items()
    }


def record(results: Results, path: Path = RECORDED) -> None:
    """Writes the ratios of this run, over those of the same rows."""
    before = json.loads(path.read_text()) if path.exists() else {}
    now = _ratios(results) | _instructions(results)
    path.write_text(json.dumps(before | now, indent=1) + "\n")


def check(results: Results, again: Callable[[Iterable[str]], None], path: Path = RECORDED) -> int:
    """Compares this run with the record, says what has grown, and returns the exit code."""
    before = json.loads(path.read_text())
    limits = {row: ratio * SLACK for row, ratio in before.items()}
    grown = _grown(results, limits)
    for _ in range(AGAIN):
        if not grown:
            break
        again(grown)
        grown = _grown(results, limits)
    for peer, why in results.absent.items():
        print(f"{peer} could not be measured: {why}")
    for row, ratio in grown.items():
        print(f"{row}: {ratio:.2f}× {YARDSTICK}, more than {SLACK:g}× what is recorded")
    more = {
        kind: number
        for kind, number in _instructions(results).items()
        if number > MORE * before.get(kind, number)
    }
    for kind, number in more.items():
        print(f"{kind}: {number}, more than {MORE:g}× the {before[kind]} that are recorded")
    return int(bool(grown or more or results.absent))


def _grown(results: Results, limits: dict[str, float]) -> dict[str, float]:
    now = _ratios(results)
    return {row: ratio for row, ratio in now.items() if ratio > limits.get(row, ratio)}
