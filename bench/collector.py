"""What the garbage collector does to logins: Python's own settings, ours, none.

Run as `python -m bench.collector [--sessions N] [--rounds N]`. Logins that go out again leave
nothing to collect, and the collector never runs for them; those that stay bring it to life. Here so
many come to stay while others go in and out, who wait while it looks through all that are there.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench.measure import QUICK, Site, ground, metered
from bench.peers.ours import Wrapped, report_of
from bench.programs import Load, build

_LOGINS = 4000
COLUMNS = ("µs CPU a login", "p50 ms", "p99 ms", "collections", "longest, ms")
_SETTINGS = {"Python's": (700, 10, 10), "ours": None, "off": (0, 0, 0)}


def _serve(thresholds: list[int] | None, report: int, command: list[str]) -> None:
    """Is the proxy, with these thresholds in its workers."""
    from perdition.cli import main as proxy  # noqa: PLC0415 - not what measures
    from perdition.server.worker import Worker  # noqa: PLC0415

    listen = Worker._listen
    began = 0.0

    def collecting(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            os.write(report, b"%.6f\n" % (time.perf_counter() - began))

    def listen_and_set(self: Worker) -> None:
        listen(self)
        gc.callbacks.append(collecting)
        if thresholds is not None:
            self.loop.call_soon(gc.set_threshold, *thresholds)  # after the worker's own

    Worker._listen = listen_and_set  # type: ignore[method-assign]
    sys.argv = command
    proxy()


def _measure(
    site: Site, thresholds: tuple[int, int, int] | None, sessions: int
) -> tuple[float, int, int, list[float]]:
    """CPU µs a login, its median and 99th percentile in µs, and the seconds of each collection."""
    with ExitStack() as stack:
        peer = Wrapped("bench.collector", "--serve", json.dumps(thresholds))
        running = site.start(peer, "plain")
        stack.callback(running.stop)
        stay = Load("hold", running.port, sessions=sessions, concurrency=20, limit=60)
        load = stack.enter_context(Load("logins", running.port, count=_LOGINS, concurrency=20))
        with metered(running) as meter, ThreadPoolExecutor(1) as aside:
            coming = aside.submit(stack.enter_context, stay)
            seen = load.work()
            coming.result()
        spent = [float(each) for each in report_of(running.folder).read_text().split()]
    return meter.cpu / (_LOGINS + sessions) * 1e6, seen.p50_us, seen.p99_us, spent


def compare(sessions: int = 5000, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Gives for each of the settings the medians of what was seen, by the names of `COLUMNS`."""
    build()
    found: dict[str, list[tuple[float, int, int, list[float]]]] = {}
    with ExitStack() as stack:
        site = stack.enter_context(ground(QUICK))
        for _ in range(rounds):
            for name, thresholds in _SETTINGS.items():
                found.setdefault(name, []).append(_measure(site, thresholds, sessions))
    seen = {}
    for name, each in found.items():
        figures = [
            (cpu, p50 / 1000, p99 / 1000, len(spent), 1000 * max(spent, default=0.0))
            for cpu, p50, p99, spent in each
        ]
        medians = map(statistics.median, zip(*figures, strict=True))
        seen[name] = dict(zip(COLUMNS, medians, strict=True))
    return seen


def main() -> None:
    """Prints the table."""
    if sys.argv[1:2] == ["--serve"]:
        report = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        _serve(json.loads(sys.argv[2]), report, sys.argv[4:])
        return
    parser = argparse.ArgumentParser(prog="bench.collector", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5000, metavar="N", help="who come to stay")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how many rounds")
    arguments = parser.parse_args()
    print(f"{'collector':9}", *(f"{name:>20}" for name in COLUMNS))
    for name, figures in compare(arguments.sessions, arguments.rounds).items():
        print(f"{name:9}", *(f"{figure:20.2f}" for figure in figures.values()))


if __name__ == "__main__":
    main()
