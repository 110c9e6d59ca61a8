"""Runs the bench: all peers put up, the jobs round by round in turn, the table, the JSON.

Whatever it has started is ended when it ends, in whichever way.
"""

import argparse
import dataclasses
import random
import resource
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench import collector, lookups, opcodes, profile, recorded, report
from bench.measure import FULL, JOBS, QUICK, Job, Samples, Site, Sizes, ground, warm_up
from bench.peers import PEERS
from bench.peers.base import Peer, Running
from bench.peers.ours import earlier
from bench.programs import BenchError, build
from bench.recorded import RECORDED
from bench.report import OURS, YARDSTICK, Results
from bench.rows import Sample
from perdition.errors import PerditionError

_RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    names = ",".join(peer.name for peer in PEERS)
    jobs = ", ".join(job.name for job in JOBS)
    parser = argparse.ArgumentParser(prog="bench", description="Measure ours and its peers.")
    parser.add_argument(
        "--quick", action="store_true", help=f"smaller loads, {YARDSTICK} and {OURS} alone"
    )
    parser.add_argument(
        "--check", action="store_true", help=f"fail where a ratio has grown: see {RECORDED.name}"
    )
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORDED}")
    parser.add_argument("--only", metavar="NAME", help=f"jobs whose name holds NAME: {jobs}")
    parser.add_argument("--peers", metavar="NAMES", help=f"some of {names}")
    parser.add_argument(
        "--before", type=Path, metavar="BIN", help=f"{OURS} of another checkout: its .venv/bin"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder for the JSON")
    return parser.parse_args()


def _chosen(arguments: argparse.Namespace) -> tuple[list[Peer], list[Job], Sizes]:
    wanted = [YARDSTICK, OURS] if arguments.quick else [peer.name for peer in PEERS]
    if arguments.peers:
        wanted = arguments.peers.split(",")
    unknown = set(wanted) - {peer.name for peer in PEERS}
    if unknown:
        raise BenchError(f"no such peer: {', '.join(sorted(unknown))}")
    jobs = [job for job in JOBS if job.quick or not arguments.quick]
    if arguments.only:
        jobs = [job for job in JOBS if arguments.only in job.name]
    if not jobs:
        raise BenchError(f"no such job: {arguments.only}")
    sizes = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        if arguments.rounds < 1:
            raise BenchError("--rounds: at least one")
        sizes = dataclasses.replace(
            sizes,
            rounds=arguments.rounds,
            idle_rounds=min(arguments.rounds, sizes.idle_rounds),
        )
    peers = [peer for peer in PEERS if peer.name in wanted]
    if arguments.before:
        peers.insert(0, earlier(arguments.before))
    return peers, jobs, sizes


class Bench:
    """One run: the peers that stand, and the turns that they take."""

    def __init__(self, site: Site, peers: list[Peer], jobs: list[Job], stack: ExitStack) -> None:
        self.results = Results([peer.name for peer in peers])
        self._site, self._peers, self._jobs = site, peers, jobs
        self._stack = stack.enter_context(ExitStack())
        self._standing: dict[tuple[str, str], Running] = {}

    def put_up(self) -> None:
        """Starts every peer; one that can't is left out, with the reason."""
        for peer in list(self._peers):
            missing = peer.missing()
            if missing:
                self._leave_out(peer, missing)
                continue
            try:
                jobs = (job for job in self._jobs if job.is_for(peer) and job.run and not job.fresh)
                for flavour in sorted({job.flavour for job in jobs}):
                    running = self._site.start(peer, flavour)
                    self._stack.callback(running.stop)
                    warm_up(running)
                    self._standing[peer.name, flavour] = running
            except (BenchError, OSError) as error:
                self._leave_out(peer, f"could not start: {error}")

    def _renew(self) -> None:
        """Starts every peer anew: where its memory lies makes a process some hundredths dearer."""
        self._stack.close()
        self.put_up()

    def _leave_out(self, peer: Peer, why: str) -> None:
        self.results.absent[peer.name] = why
        self._peers.remove(peer)

    def play(self) -> None:
        """Runs all rounds of all jobs."""
        self._play(self._jobs)

    def again(self, rows: Iterable[str]) -> None:
        """Runs the jobs that are named like these rows again, and forgets what they gave before."""
        for row in rows:
            self.results.forget(row)
        self._play([job for job in self._jobs if job.name in rows])

    def _play(self, jobs: list[Job]) -> None:
        sizes = self._site.sizes
        for number in range(sizes.rounds):
            if number and sizes.renews:
                self._renew()
            # Nobody is always the one behind another.
            chance = random.Random(number)
            for job in jobs:
                if number < job.rounds(sizes):
                    self._take_turns(number, job, chance)

    def _take_turns(self, number: int, job: Job, chance: random.Random) -> None:
        """Runs a job of a round, in some turns: what slows the machine for a moment slows all."""
        sizes = self._site.sizes
        peers = [peer for peer in self._peers if job.is_for(peer)]
        parts: dict[tuple[str, str], list[Sample]] = {}
        for _ in range(job.turns(sizes)):
            for peer in chance.sample(peers, len(peers)):
                _progress(f"round {number + 1}/{sizes.rounds}: {job.name}, {peer.name}")
                for row, sample in self._run(job, peer).items():
                    parts.setdefault((row, peer.name), []).append(sample)
        for (row, name), samples in parts.items():
            whole = samples[0] if len(samples) == 1 else Sample.of(samples)
            self.results.add(row, name, number, whole)

    def _run(self, job: Job, peer: Peer) -> Samples:
        try:
            return self._samples(job, peer)
        except (BenchError, OSError) as error:
            self.results.failures[f"{job.name}, {peer.name}"] = str(error)
            return {}

    def _samples(self, job: Job, peer: Peer) -> Samples:
        if job.alone is not None:
            return job.alone(self._site, peer)
        assert job.run is not None
        if not job.fresh:
            return job.run(self._site, self._standing[peer.name, job.flavour])
        with ExitStack() as stack:
            running = self._site.start(peer, job.flavour)
            stack.callback(running.stop)
            return job.run(self._site, running)


def _look_up(results: Results) -> None:
    for kind in lookups.TARGETS:
        _progress(f"look-ups: {kind}")
        try:
            results.lookups[kind] = lookups.measure(kind, 1)
        except PerditionError as error:
            results.failures[f"look-ups, {kind}"] = str(error)


def _profile(results: Results) -> None:
    _progress("profile")
    try:
        results.profile = profile.measure()
    except BenchError as error:
        results.absent["profile"] = str(error)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def _show(bench: Bench, seconds: float, sizes: Sizes, folder: Path) -> None:
    results = bench.results
    _progress("")
    shown = (
        report.costs, report.targets, report.lookups, report.instructions, report.clients,
        report.notes,
    )  # fmt: skip
    for text in (show(results) for show in shown):
        if text:
            print(text + "\n")
    conditions = {"sizes": dataclasses.asdict(sizes), "seconds": round(seconds, 1)}
    path = report.save(results, conditions, folder)
    print(f"{sizes.rounds} rounds in {seconds:.0f} s; every round: {path}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> int:
    peers, jobs, sizes = _chosen(arguments)
    build()
    began = time.monotonic()
    code = 0
    with ExitStack() as stack:
        bench = Bench(stack.enter_context(ground(sizes)), peers, jobs, stack)
        try:
            bench.put_up()
            bench.play()
            if not (arguments.only or arguments.peers):
                bench.results.instructions = opcodes.by_file()
                if not arguments.quick:
                    bench.results.bare_instructions = opcodes.of_bare()
                    _look_up(bench.results)
                    _progress("collector")
                    bench.results.collector = collector.compare()
                    _profile(bench.results)
            if arguments.check:
                code = recorded.check(bench.results, bench.again)
        except KeyboardInterrupt:
            code = 130
        _show(bench, time.monotonic() - began, sizes, arguments.results)
    if arguments.record and not code:
        recorded.record(bench.results)
    return code or int(bool(bench.results.failures))


def main() -> int:
    """Runs what the command line asks for: 0; 1 for a failed measure or check, 2: it can't run."""
    # SIGINT, too: a shell has it ignored in what it starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return _run(_arguments())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


sys.exit(main())
