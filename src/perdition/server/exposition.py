"""The metrics as text: OpenMetrics 1.0, of the shared counters and of what workers said.

Source: the OpenMetrics specification, version 1.0.0. Invariant: no user's name, no client's
address, and a bounded number of series.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdition import __version__
from perdition.metrics import FAMILIES, Family

if TYPE_CHECKING:
    from perdition.server.master import Master

TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_SERVERS = 100  # shown one by one; all are in the sums
_STATES = ("up", "partly down", "down", "slow", "drained")

Sample = tuple[dict[str, str], float]


def exposition(master: Master, servers: Sequence[Mapping[str, Any]], silent: int) -> str:
    """All metrics of a daemon; `silent` workers did not answer, so their servers are missing."""
    lines = [*_of_daemon(master, silent)]
    cells = master.counters.metrics_total()
    for family in FAMILIES:
        lines += _of_family(family, cells)
    lines += _of_servers(servers, one_by_one=not master.config.client_server_specification)
    return "\n".join((*lines, "# EOF\n"))


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    text = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
    return f"{name}{{{text}}} {value}" if text else f"{name} {value}"


def _escaped(text: str) -> str:
    """A label's value; what is not printable is nobody's server."""
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _block(kind: str, name: str, help: str, samples: Iterable[Sample]) -> Iterator[str]:
    """A family with its samples."""
    yield f"# TYPE {name} {kind}"
    yield f"# HELP {name} {help}"
    suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
    for labels, value in samples:
        yield _sample(name + suffix, labels, value)


def _of_family(family: Family, cells: Sequence[int]) -> Iterator[str]:
    labelled = [dict(zip(family.labels, values, strict=True)) for values in family.series]
    if not family.bounds:
        values = cells[family.first : family.first + len(labelled)]
        yield from _block("counter", family.name, family.help, zip(labelled, values, strict=True))
        return
    yield from _block("histogram", family.name, family.help, ())
    for number, labels in enumerate(labelled):
        first = family.first + number * family.stride
        *counts, microseconds = cells[first : first + family.stride]
        so_far = 0
        for bound, count in zip((*map(str, family.bounds), "+Inf"), counts, strict=True):
            so_far += count
            yield _sample(f"{family.name}_bucket", {**labels, "le": bound}, so_far)
        yield _sample(f"{family.name}_count", labels, so_far)
        yield _sample(f"{family.name}_sum", labels, microseconds / 1e6)


def _of_daemon(master: Master, silent: int) -> Iterator[str]:
    config, counters = master.config, master.counters
    about = {"version": __version__, "ident": config.basename, "protocol": config.protocol}
    yield from _block("info", "perdition", "What runs.", [(about, 1)])
    begun = time.time() - (time.monotonic() - master.started)
    old = sum(child.generation is not master.current for child in master.children())
    alive = len(master.children())
    workers = {"wanted": master.current.workers, "alive": alive, "silent": silent, "old": old}
    one: dict[str, str] = {}
    for kind, name, help, samples in (
        ("gauge", "perdition_start_time_seconds", "When the daemon began.", [(one, begun)]),
        ("gauge", "perdition_sessions", "Clients now.", [(one, counters.total("sessions"))]),
        ("gauge", "perdition_sessions_limit", "connection_limit; 0: none.",
         [(one, config.connection_limit)]),
        ("counter", "perdition_connections", "Clients.", [(one, counters.total("connections"))]),
        ("counter", "perdition_refused_connections", "Clients over connection_limit.",
         [(one, counters.total("refused"))]),
        ("gauge", "perdition_workers",
         "Worker processes; silent: did not answer the daemon, old: serve an old configuration.",
         [({"state": state}, count) for state, count in workers.items()]),
        ("counter", "perdition_worker_restarts", "Workers that died and were replaced.",
         [(one, master.restarts)]),
        ("counter", "perdition_reloads", "Reloads by outcome.",
         [({"result": result}, count) for result, count in master.reloads.items()]),
        ("gauge", "perdition_reload_failed", "Whether the last reload failed.",
         [(one, int(bool(master.reload_problems)))]),
    ):  # fmt: skip
        yield from _block(kind, name, help, samples)


def _of_servers(servers: Sequence[Mapping[str, Any]], *, one_by_one: bool) -> Iterator[str]:
    """Sums by state; and the busiest servers, unless clients may name any server they like."""
    states = [str(row["state"]) for row in servers]
    sums: list[Sample] = [({"state": state}, states.count(state)) for state in _STATES]
    yield from _block("gauge", "perdition_servers", "Servers known, by state.", sums)
    if not one_by_one:
        return
    shown = sorted(servers, key=lambda row: -int(row["sessions"]))[:_SERVERS]
    named = [({"server": str(row["server"])}, row) for row in shown]
    yield from _block(
        "gauge", "perdition_server_up", "Whether a server answers; drained ones count as not up.",
        [(name, int(row["state"] == "up")) for name, row in named],
    )  # fmt: skip
    yield from _block(
        "gauge", "perdition_server_sessions", "Sessions at a server.",
        [(name, int(row["sessions"])) for name, row in named],
    )  # fmt: skip
    yield from _block(
        "gauge", "perdition_server_latency_seconds", "Moving average until a login is answered.",
        [(name, float(row["latency"])) for name, row in named if row["latency"] is not None],
    )  # fmt: skip
