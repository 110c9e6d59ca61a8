"""The jobs: each runs one load through one running peer and gives samples for some rows.

CPU is read around the work alone, when the peer has gone quiet: logins that only prepare the
work, and processes that still wind down from the job before, are outside.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench import proc
from bench.peers.base import Peer, Running, Setting, free_port
from bench.programs import BenchError, Load
from bench.rows import Sample

Samples = dict[str, Sample]


@dataclass(frozen=True)
class Sizes:
    """How much of each load; a slow peer gets its share of it."""

    logins: int
    tls_logins: int
    relay: int
    relay_tls: int
    round_trips: int
    idle: int
    rounds: int
    idle_rounds: int


FULL = Sizes(2000, 400, 256_000_000, 128_000_000, 6000, 2000, rounds=5, idle_rounds=2)
QUICK = Sizes(1000, 100, 64_000_000, 32_000_000, 2000, 1000, rounds=3, idle_rounds=1)


@dataclass
class Site:
    """The ground on which peers are put up: one folder, one back end, one key pair."""

    folder: Path
    backend_port: int
    certificate: Path
    key: Path
    sizes: Sizes
    _numbers: Iterator[int] = field(default_factory=count)

    def start(self, peer: Peer, tls: bool) -> Running:
        """Starts a fresh instance of the peer on a port of its own."""
        folder = self.folder / f"{peer.name}-{next(self._numbers)}"
        setting = Setting(folder, free_port(), self.backend_port, tls, self.certificate, self.key)
        return Running(peer, setting)


@dataclass
class Meter:
    """CPU seconds that a peer has used inside the `with`."""

    cpu: float = 0.0


@contextmanager
def metered(running: Running) -> Iterator[Meter]:
    """Reads the peer's CPU before and after, both times when it is quiet."""
    meter = Meter()
    proc.settled_cpu_seconds(running.pid, running.processes, limit=0.5)
    processes = len(proc.tree(running.pid))
    before = proc.cpu_seconds(running.pid)
    yield meter
    meter.cpu = proc.settled_cpu_seconds(running.pid, processes) - before


def _share(whole: int, running: Running) -> int:
    return max(1, int(whole * running.peer.shrink))


def login(site: Site, running: Running, handshake: str, few: bool = False) -> Sample:
    """Logs in and out, twenty at a time."""
    whole = site.sizes.tls_logins if handshake or few else site.sizes.logins
    total = _share(whole, running)
    options = {"tls": handshake} if handshake else {}
    with Load("logins", running.port, count=total, **options) as load, metered(running) as meter:
        seen = load.work()
    if handshake == "resumed" and seen.resumed < 0.9 * total:
        raise BenchError(f"only {seen.resumed} of {total} sessions were resumed")
    return Sample(meter.cpu / total * 1e6, seen.p50_us, seen.p99_us, total / seen.seconds)


def relay(site: Site, running: Running, mode: str) -> Sample:
    """Moves bytes through two sessions; the rate is in MB/s."""
    whole = site.sizes.relay_tls if running.tls else site.sizes.relay
    total = int(whole * max(running.peer.shrink, 0.125))
    with (
        Load(mode, running.port, sessions=2, bytes=total, **_tls(running)) as load,
        metered(running) as meter,
    ):
        seen = load.work()
    if seen.moved != total:
        raise BenchError(f"{seen.moved} of {total} bytes arrived")
    return Sample(meter.cpu * 1000 / (total / 1e9), rate=total / 1e6 / seen.seconds)


def ping(site: Site, running: Running) -> Sample:
    """Plays NOOP and OK on four sessions."""
    total = site.sizes.round_trips
    with (
        Load("ping", running.port, sessions=4, count=total, **_tls(running)) as load,
        metered(running) as meter,
    ):
        seen = load.work()
    return Sample(meter.cpu / total * 1e6, seen.p50_us, seen.p99_us, total / seen.seconds)


def idle(site: Site, running: Running) -> Samples:
    """Holds idle sessions on a fresh instance: their memory, and what a login costs among them."""
    kind = "tls" if running.tls else "plain"
    handshake = "full" if running.tls else ""
    sessions = _share(site.sizes.idle, running)
    login(site, running, handshake, few=True)
    alone = login(site, running, handshake, few=True)
    before = proc.pss_bytes(running.pid)
    options = _tls(running) | {"concurrency": 100}
    with Load("hold", running.port, sessions=sessions, **options) as hold:
        time.sleep(0.2)
        held = proc.pss_bytes(running.pid) - before
        crowd = login(site, running, handshake, few=True)
        alive = hold.work().alive
    if alive != sessions:
        raise BenchError(f"{sessions - alive} of {sessions} idle sessions were lost")
    return {
        f"idle-{kind}": Sample(held / 1024 / sessions),
        f"crowd-{kind}": Sample(crowd.cost / alone.cost, crowd.p50_us, crowd.p99_us),
        f"start-{kind}": Sample(running.start_seconds * 1000),
    }


def _tls(running: Running) -> dict[str, object]:
    return {"tls": "full"} if running.tls else {}


@dataclass(frozen=True)
class Job:
    """One thing to run in a round; a fresh job gets an instance of its own."""

    name: str
    tls: bool
    run: Callable[[Site, Running], Samples]
    fresh: bool = False


def _one(key: str, run: Callable[[Site, Running], Sample]) -> Job:
    tls = not key.endswith("-plain")
    return Job(key, tls, lambda site, running: {key: run(site, running)})


JOBS = (
    _one("login-plain", lambda site, running: login(site, running, "")),
    _one("login-tls", lambda site, running: login(site, running, "full")),
    _one("login-resumed", lambda site, running: login(site, running, "resumed")),
    _one("fetch-plain", lambda site, running: relay(site, running, "fetch")),
    _one("append-plain", lambda site, running: relay(site, running, "append")),
    _one("fetch-tls", lambda site, running: relay(site, running, "fetch")),
    _one("append-tls", lambda site, running: relay(site, running, "append")),
    _one("noop-plain", ping),
    _one("noop-tls", ping),
    Job("idle-plain", tls=False, run=idle, fresh=True),
    Job("idle-tls", tls=True, run=idle, fresh=True),
)
