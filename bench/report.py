"""What a run has shown: samples by row, peer and round; as a table and as JSON."""

import datetime
import json
import math
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import proc
from bench.lookups import TARGETS as LOOKUPS
from bench.peers import PEERS
from bench.rows import BEST, ROWS, Row, Sample, Target

YARDSTICK = "nginx"
OURS = "ours"
_RIVALS = {peer.name for peer in PEERS if peer.logs_in and peer.name != OURS}


_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

# Student's t, two-sided 99 %, by the number of figures less one; more have the last.
_STUDENT = (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169)


@dataclass(frozen=True)
class Figure:
    """The median over rounds, of a cost or of how two peers compare.

    `noise` is what the median of another run of as many rounds differs by, at most, in 99 of 100
    cases in which nothing but chance is at work; None: one round does not tell.
    """

    median: float
    noise: float | None

    def __str__(self) -> str:
        return shown(self.median, self.noise)


def _figure(each: list[float]) -> Figure | None:
    if not each:
        return None
    noise = None
    if (size := len(each)) > 1:
        # The variance of a median is pi/2 times that of a mean; there are two.
        student = _STUDENT[min(size - 1, len(_STUDENT)) - 1]
        noise = student * statistics.stdev(each) * math.sqrt(math.pi / size)
    return Figure(statistics.median(each), noise)


def shown(median: float, noise: float | None) -> str:
    """Writes a figure and its noise, with as many digits."""
    text = number(median)
    digits = len(text.partition(".")[2])
    return text if noise is None else f"{text} ± {noise:.{digits}f}"


def number(value: float) -> str:
    """Writes a figure with the digits that mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


@dataclass
class Results:
    """Everything that was measured, and why something was not."""

    peers: list[str]
    samples: dict[tuple[str, str], dict[int, Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    lookups: dict[str, float] = field(default_factory=dict)  # µs by kind of map
    # of the interpreter for a login, by kind and file
    instructions: dict[str, dict[str, float]] = field(default_factory=dict)
    bare_instructions: dict[str, float] = field(default_factory=dict)  # by kind
    collector: dict[str, dict[str, float]] = field(default_factory=dict)
    # shares of the CPU in its parts, by row and peer
    profile: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def add(self, row: str, peer: str, turn: int, sample: Sample) -> None:
        """Keeps the sample of one round."""
        self.samples.setdefault((row, peer), {})[turn] = sample

    def forget(self, row: str) -> None:
        """Drops what was measured for a row."""
        for peer in self.peers:
            self.samples.pop((row, peer), None)

    def _costs(self, row: str, peer: str) -> list[float]:
        rounds = self.samples.get((row, peer), {}).values()
        return [cost for sample in rounds for cost in sample.each or (sample.cost,)]

    def median(self, row: str, peer: str) -> float | None:
        """Gives the peer's median cost."""
        costs = self._costs(row, peer)
        return statistics.median(costs) if costs else None

    def ratio(self, row: str, peer: str, to: str) -> Figure | None:
        """Compares the rounds that both have."""
        one, other = self.samples.get((row, peer), {}), self.samples.get((row, to), {})
        return _figure([one[turn].cost / other[turn].cost for turn in one if turn in other])

    def to_best(self, row: str) -> Figure | None:
        """Compares ours with whoever did best in the round, of the peers that log in."""
        ours = self.samples.get((row, OURS), {})
        rivals = [self.samples.get((row, peer), {}) for peer in self.peers if peer in _RIVALS]
        best = {turn: [each[turn].cost for each in rivals if turn in each] for turn in ours}
        each = [ours[turn].cost / min(costs) for turn, costs in best.items() if costs]
        return _figure(each)

    def figure(self, row: str, target: Target) -> Figure | None:
        """Gives what a target is about: a ratio to a peer, or ours in the row's own unit."""
        if target.peer == BEST:
            return self.to_best(row)
        if target.peer:
            return self.ratio(row, OURS, target.peer)
        return _figure(self._costs(row, OURS))

    def verdict(self, row: str, target: Target) -> str:
        """Says met or missed, or nothing when it can't be known."""
        figure = self.figure(row, target)
        if figure is None:
            return "–"
        return "met" if target.met_by(figure.median) else "MISSED"


def _cell(results: Results, row: Row, peer: str) -> str:
    value = results.median(row.key, peer)
    if value is None:
        return "–"
    plain = row.is_ratio or peer in (YARDSTICK, OURS)
    ratio = None if plain else results.ratio(row.key, peer, YARDSTICK)
    return number(value) + (f" ({number(ratio.median)}×)" if ratio else "")


def _columns(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(text)


def measured(results: Results) -> list[Row]:
    """Lists the rows for which there is any figure."""
    return [
        row for row in ROWS if any((row.key, peer) in results.samples for peer in results.peers)
    ]


def costs(results: Results) -> str:
    """Draws the main table: the medians of all."""
    lines = [["measure", "unit", *results.peers]]
    for row in measured(results):
        cells = (_cell(results, row, peer) for peer in results.peers)
        lines.append([row.title, row.unit, *cells])
    return _columns(lines)


def targets(results: Results) -> str:
    """Draws the table of targets: what ours has to be, what it is (and the noise), the verdict."""
    lines = [["measure", "target", "is ± noise", "verdict"]]
    for row in measured(results):
        title = row.title
        for target in row.targets:
            figure = results.figure(row.key, target)
            is_now = str(figure) if figure else "–"
            lines.append([title, str(target), is_now, results.verdict(row.key, target)])
            title = ""
    return _columns(lines) if OURS in results.peers and len(lines) > 1 else ""


def lookups(results: Results) -> str:
    """Draws the table of look-ups in maps, and their targets."""
    lines = [["look-up in a map", "µs", "target", "verdict"]]
    for kind, figure in results.lookups.items():
        target = Target(LOOKUPS[kind])
        verdict = "met" if target.met_by(figure) else "MISSED"
        lines.append([kind, number(figure), str(target), verdict])
    return _columns(lines) if len(lines) > 1 else ""


def instructions(results: Results) -> str:
    """Says in a line what a login makes the interpreter do."""
    sums = (f"{sum(each.values()):.0f} {kind}" for kind, each in results.instructions.items())
    said = ", ".join(sums)
    return f"instructions of the interpreter a login: {said}" if said else ""


def clients(results: Results) -> str:
    """Draws the table beside it: what the clients saw."""
    lines = [["seen by the clients", *results.peers]]
    for row in measured(results):
        cells = []
        for peer in results.peers:
            rounds = results.samples.get((row.key, peer), {}).values()
            rate = statistics.median(s.rate for s in rounds) if rounds else 0
            p50 = statistics.median(s.p50_us for s in rounds) if rounds else 0
            p99 = statistics.median(s.p99_us for s in rounds) if rounds else 0
            unit = "/s" if p50 else " MB/s"
            cells.append(f"{rate:.0f}{unit}" if rate else "–")
            cells[-1] += f", {p50 / 1000:.2f}–{p99 / 1000:.2f} ms" if rate and p50 else ""
        if any(cell != "–" for cell in cells):
            lines.append([row.title, *cells])
    return _columns(lines) if len(lines) > 1 else ""


def notes(results: Results) -> str:
    """Says which peers are not in the table and what went wrong."""
    lines = [f"{peer}: {why}" for peer, why in results.absent.items()]
    lines += [f"{what}: {why}" for what, why in results.failures.items()]
    return "\n".join(lines)


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def save(results: Results, conditions: dict[str, Any], folder: Path) -> Path:
    """Writes everything as JSON, every round of it, into the folder."""
    rows: dict[str, Any] = {}
    for row in measured(results):
        entry = rows[row.key] = {"title": row.title, "unit": row.unit, "peers": {}, "targets": []}
        for peer in results.peers:
            rounds = results.samples.get((row.key, peer), {})
            ratio = results.ratio(row.key, peer, YARDSTICK)
            entry["peers"][peer] = {
                "median": results.median(row.key, peer),
                f"to_{YARDSTICK}": asdict(ratio) if ratio else None,
                "rounds": {turn: asdict(sample) for turn, sample in rounds.items()},
            }
        for target in row.targets:
            verdict = results.verdict(row.key, target)
            figure = results.figure(row.key, target)
            entry["targets"].append(
                {**asdict(target), "is": asdict(figure) if figure else None, "verdict": verdict}
            )
    now = datetime.datetime.now(datetime.UTC)
    everything = {
        "time": now.isoformat(timespec="seconds"),
        "host": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "model": _model(),
            "congestion_control": _CONGESTION_CONTROL.read_text().strip(),
            "load": os.getloadavg(),
        },
        "cpu_method": proc.METHOD,
        "memory_method": "PSS of all processes (smaps_rollup)",
        "conditions": conditions,
        "absent": results.absent,
        "failures": results.failures,
        "rows": rows,
        "lookups": {
            kind: {"us": figure, "target": LOOKUPS[kind]}
            for kind, figure in results.lookups.items()
        },
        "instructions": results.instructions,
        "bare_instructions": results.bare_instructions,
        "collector": results.collector,
        "profile": results.profile,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
    return path
