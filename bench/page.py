"""Renders docs/performance.md's tables and plots from the results of one run of the bench.

Run as `python -m bench.page [RESULTS ...]`: with files, the last becomes docs/performance.json
first, with the medians of the others beside it.
Nothing else writes the figures of the page; tests/bench sees to it that they are these.
"""

import json
import statistics
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.plots import Series, bars, lines
from bench.profile import PARTS
from bench.report import number, shown

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RUN = DOCS / "performance.md", DOCS / "performance.json"
_BEGIN, _END = "<!-- {} -->\n", "<!-- end of {} -->\n"
_FILES = 14  # that take the most of a login
_LOGINS = {
    "login-plain": "plain",
    "login-awake": "plain, nobody asleep",
    "login-tls": "TLS, full, P-256",
    "login-rsa": "TLS, full, RSA-2048",
    "login-resumed": "TLS, resumed",
}


def _table(lines: list[list[str]]) -> str:
    head, *rest = ["| " + " | ".join(cells) + " |\n" for cells in lines]
    return "".join([head, "|---" * len(lines[0]) + "|\n", *rest])


def _agrees(median: float, figure: dict[str, float]) -> bool:
    """Compares what the page shows: a difference that is not printed is none."""
    ours, _, noise = shown(**figure).partition(" ± ")
    return abs(Decimal(number(median)) - Decimal(ours)) <= Decimal(noise or 0)


def _medians_of(run: dict[str, Any]) -> dict[str, list[float | None]]:
    """The figures of each row's targets."""
    return {
        key: [target["is"] and target["is"]["median"] for target in row["targets"]]
        for key, row in run["rows"].items()
    }


def agreement(run: dict[str, Any]) -> str:
    """How many medians of the other runs are those of this, but for its noise."""
    ratios: list[bool] = []
    others: list[bool] = []
    for other in run["others"]:
        for key, medians in other.items():
            for median, target in zip(medians, run["rows"][key]["targets"], strict=True):
                if median is not None and (figure := target["is"]):
                    (ratios if target["peer"] else others).append(_agrees(median, figure))
    count = len(run["others"])
    return (
        f"Of the {count} other run{'s' * (count != 1)} {sum(ratios)} of {len(ratios)} ratios to "
        f"peers lie within the noise of this, and {sum(others)} of {len(others)} other medians: "
        "how long starts take, memory, what a crowd costs and a second worker brings.\n"
    )


def _targets(run: dict[str, Any]) -> str:
    table = [["measure", "target", "is ± noise", "other runs", "verdict"]]
    for key, row in run["rows"].items():
        title = f"{row['title']}, {row['unit']}" if row["unit"] != "×" else row["title"]
        for place, target in enumerate(row["targets"]):
            medians = (other[key][place] for other in run["others"])
            others = ", ".join("–" if value is None else number(value) for value in medians)
            sign = "≥" if target["at_least"] else "≤"
            limit = f"{sign} {target['limit']:g}"
            limit += f"× {target['peer']}" if target["peer"] else ""
            is_now = shown(**target["is"]) if target["is"] else "–"
            verdict = target["verdict"]
            verdict = f"**{verdict}**" if verdict != "met" else verdict
            table.append([title, limit, is_now, others, verdict])
            title = ""
    for kind, found in run.get("lookups", {}).items():
        verdict = "met" if found["us"] <= found["target"] else "**MISSED**"
        table.append(
            [f"look-up, {kind}, µs", f"≤ {found['target']:g}", number(found["us"]), "", verdict]
        )
    return _table(table)


def _medians(run: dict[str, Any]) -> str:
    names = list(next(iter(run["rows"].values()))["peers"])
    table = [["measure", *names]]
    for row in run["rows"].values():
        medians = [row["peers"][name]["median"] for name in names]
        cells = ["–" if value is None else number(value) for value in medians]
        table.append([f"{row['title']}, {row['unit']}", *cells])
    return _table(table)


def _split(row: dict[str, Any], peer: str) -> tuple[float, float] | None:
    """µs of a login in the program and in the kernel."""
    found = row["peers"][peer]
    if found["median"] is None:
        return None
    ticks = [sample["ticks"] for sample in found["rounds"].values()]
    program, kernel = (sum(each) for each in zip(*ticks, strict=True))
    share = kernel / ((program + kernel) or 1)
    return found["median"] * (1 - share), found["median"] * share


def _kernel(run: dict[str, Any]) -> str:
    rows = {key: run["rows"][key] for key in _LOGINS}
    table = [["µs of a login: program + kernel", *_LOGINS.values()]]
    for peer in next(iter(rows.values()))["peers"]:
        parts = (_split(row, peer) for row in rows.values())
        table.append([peer, *(f"{x[0]:.0f} + {x[1]:.0f}" if x else "–" for x in parts)])
    return _table(table)


def _instructions(run: dict[str, Any]) -> str:
    """What a login makes the interpreter do, file by file."""
    kinds = run["instructions"]
    found: dict[str, dict[str, float]] = {}
    for kind, files in kinds.items():
        for file, times in files.items():
            found.setdefault(file, {})[kind] = times
    table = [["file", *kinds]]
    shown = sorted(found.items(), key=lambda each: -each[1].get("plain", 0.0))
    most, rest = shown[:_FILES], shown[_FILES:]
    for file, each in most:
        table.append([f"`{file}`", *(f"{each.get(kind, 0.0):.0f}" for kind in kinds)])
    others = (sum(each.get(kind, 0.0) for _, each in rest) for kind in kinds)
    table.append([f"{len(rest)} others", *(f"{times:.0f}" for times in others)])
    table.append(["all", *(f"{sum(files.values()):.0f}" for files in kinds.values())])
    return _table(table)


def _room(run: dict[str, Any]) -> str:
    """What the targets of logins leave for all that bare Python does not do."""
    names = ("bare", "stripped", "ours")
    head = ["login", "target, µs", *(f"{name}, µs" for name in names)]
    table = [[*head, "steps above bare", "target leaves"]]
    for key, title in _LOGINS.items():
        row = run["rows"][key]
        limits = [target["limit"] for target in row["targets"] if target["peer"] == "nginx"]
        if not limits:
            continue
        nginx, *costs = (row["peers"][peer]["median"] for peer in ("nginx", *names))
        target, bare, ours = limits[0] * nginx, costs[0], costs[-1]
        kind = "plain" if key.endswith("plain") else "tls"
        above = sum(run["instructions"][kind].values()) - run["bare_instructions"][kind]
        left = above * (target - bare) / ((ours - bare) or 1)
        room = "all" if ours <= target else f"{left:.0f}" if bare < ours else "–"
        table.append([title, *map(number, (target, *costs, above)), room])
    return _table(table)


def _collector(run: dict[str, Any]) -> str:
    settings = run["collector"]
    table = [["collector", *next(iter(settings.values()))]]
    table += [[name, *map(number, figures.values())] for name, figures in settings.items()]
    return _table(table)


def _profile(run: dict[str, Any]) -> str:
    """What each part takes of a peer's figure, in the row's unit."""
    table = [["", "peer", *PARTS, "all"]]
    for key, peers in run["profile"].items():
        row = run["rows"][key]
        title = f"{row['title']}, {row['unit']}"
        for peer, shares in peers.items():
            whole = row["peers"][peer]["median"]
            parts = (whole * shares[part] for part in PARTS)
            table.append([title, peer, *map(number, parts), number(whole)])
            title = ""
    return _table(table)


def _busy(run: dict[str, Any]) -> str:
    """How much of their processors the peers used, and load and back end of theirs."""
    rows = {key: run["rows"][key] for key in ("login-plain", "login-tls", "login-rsa")}
    table = [["% of its processor: peer, others", *(_LOGINS[key] for key in rows)]]
    for peer in next(iter(rows.values()))["peers"]:
        cells = []
        for row in rows.values():
            each = row["peers"][peer]["rounds"].values()
            sides = [
                statistics.median(sample[side] * sample["rate"] / 1e4 for sample in each)
                for side in ("cost", "others") if each
            ]  # fmt: skip
            cells.append(", ".join(f"{side:.0f}" for side in sides) or "–")
        table.append([peer, *cells])
    return _table(table)


def _conditions(run: dict[str, Any]) -> str:
    host, conditions = run["host"], run["conditions"]
    return (
        f"Measured on {run['time'][:10]}: {host['processors']} processors ({host['model']}), "
        f"{host['system']}, Python {host['python']}, TCP with {host['congestion_control']}, "
        f"{conditions['sizes']['rounds']} rounds in {conditions['seconds']:.0f} s.\n"
    )


def _plot_logins(run: dict[str, Any]) -> str:
    groups = []
    for key, title in _LOGINS.items():
        row = run["rows"][key]
        groups.append((title, {peer: _split(row, peer) for peer in row["peers"]}))
    most = max(sum(parts) for _, each in groups for parts in each.values() if parts)
    second = sorted(
        sum(parts) for _, each in groups for peer, parts in each.items()
        if parts and peer != "perdition2"
    )[-1]  # fmt: skip
    return bars("µs of CPU a login: dark in the program, light in the kernel", groups,
                min(most, second * 1.15))  # fmt: skip


def _plot_memory(run: dict[str, Any], kind: str, title: str) -> str:
    series: list[Series] = []
    for peer, found in run["rows"][f"idle-{kind}"]["peers"].items():
        if found["rounds"]:
            memory = next(iter(found["rounds"].values()))["memory"]
            series.append((peer, [(sessions, size / 1e6) for sessions, size in memory]))
    return lines(title, "idle sessions", "MB (PSS of all processes)", series)


def render(run: dict[str, Any], page: str) -> dict[str, str]:
    """Gives the texts of the page and of its plots, by file name."""
    parts = {
        "conditions": _conditions(run),
        "targets": _targets(run),
        "agreement": agreement(run),
        "medians": _medians(run),
        "kernel": _kernel(run),
        "instructions": _instructions(run),
        "room": _room(run),
        "collector": _collector(run),
        "profile": _profile(run),
        "busy": _busy(run),
    }
    for name, text in parts.items():
        before, _, rest = page.partition(_BEGIN.format(name))
        _, _, after = rest.partition(_END.format(name))
        page = before + _BEGIN.format(name) + text + _END.format(name) + after
    return {
        PAGE.name: page,
        "performance-logins.svg": _plot_logins(run),
        "performance-memory-tls.svg": _plot_memory(run, "tls", "Memory against idle TLS sessions"),
        "performance-memory-plain.svg": _plot_memory(
            run, "plain", "Memory against idle plain sessions"
        ),
    }


def main() -> None:
    """Takes a run over, if one is named, and renders."""
    if len(sys.argv) > 1:
        *others, run = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
        run["others"] = [_medians_of(other) for other in others]
        RUN.write_text(json.dumps(run, ensure_ascii=False, separators=(",", ":")) + "\n")
    for name, text in render(json.loads(RUN.read_text()), PAGE.read_text()).items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main()
