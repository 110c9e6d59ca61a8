"""The jobs: each runs one load through one running peer and gives samples for some rows.

CPU is read around the work alone, when the peer has gone quiet: logins that only prepare the
work, and processes that still wind down from the job before, are outside.
"""

import dataclasses
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from bench import proc
from bench.peers.base import Peer, Running, Setting, free_port
from bench.programs import Backend, BenchError, Load, key_pair, pinned
from bench.rows import Sample

Samples = dict[str, Sample]

AT_ONCE = 20  # logins under way
_STAGES = (
    1 / 18,
    1 / 9,
    2 / 9,
    4 / 9,
    1.0,
)  # of the idle sessions: memory is read there
_USERS = 10_000  # in the map of the start
_FIRST = 200  # logins of a new process that are not measured


@dataclass(frozen=True)
class Sizes:
    """How much of each load in a turn; a slow peer gets its share of it."""

    turns: int  # that each peer has at a job within a round
    logins: int
    tls_logins: int
    relay: int
    relay_tls: int
    round_trips: int
    idle: int
    idle_tls: int
    rounds: int
    idle_rounds: int
    renews: bool  # whether each round has peers that were started for it


FULL = Sizes(
    4, 500, 150, 96_000_000, 48_000_000, 2000, 2000, 9000,
    rounds=5, idle_rounds=3, renews=True,
)  # fmt: skip
QUICK = Sizes(
    1, 1000, 150, 128_000_000, 64_000_000, 3000, 1000, 1000,
    rounds=5, idle_rounds=1, renews=False,
)  # fmt: skip


@dataclass
class Site:
    """The ground on which peers are put up: a folder, a back end, key pairs by their name."""

    folder: Path
    backend: Backend
    pairs: dict[str, tuple[Path, Path]]
    sizes: Sizes
    _numbers: Iterator[int] = field(default_factory=count)

    def setting(self, peer: Peer, flavour: str) -> Setting:
        """Gives a fresh folder and port; the flavour is "plain" or the name of a key pair."""
        tls = flavour in self.pairs
        certificate, key = self.pairs[flavour] if tls else next(iter(self.pairs.values()))
        folder = self.folder / f"{peer.name}-{next(self._numbers)}"
        return Setting(folder, free_port(), self.backend.port, tls, certificate, key)

    def start(self, peer: Peer, flavour: str) -> Running:
        """Starts a fresh instance of the peer on a port of its own."""
        return Running(peer, self.setting(peer, flavour))


@contextmanager
def ground(sizes: Sizes) -> Iterator[Site]:
    """Gives a site with a back end, key pairs and a folder of its own, which end with it."""
    with (
        tempfile.TemporaryDirectory(prefix="perdition-bench-") as name,
        Backend() as backend,
    ):
        folder = Path(name)
        pairs = {"tls": key_pair(folder), "rsa": key_pair(folder, "rsa:2048")}
        yield Site(folder, backend, pairs, sizes)


@dataclass
class Meter:
    """CPU seconds that a peer has used inside the `with`, and the ticks of program and kernel."""

    cpu: float = 0.0
    ticks: tuple[int, int] = (0, 0)


@contextmanager
def metered(running: Running) -> Iterator[Meter]:
    """Reads the peer's CPU before and after, both times when it is quiet."""
    meter = Meter()
    proc.settled_cpu_seconds(running.pid, running.processes, limit=0.5)
    processes = len(proc.tree(running.pid))
    before, ticks = proc.cpu_seconds(running.pid), proc.ticks(running.pid)
    yield meter
    meter.cpu = proc.settled_cpu_seconds(running.pid, processes) - before
    after = proc.ticks(running.pid)
    meter.ticks = (after[0] - ticks[0], after[1] - ticks[1])


def _share(whole: int, running: Running) -> int:
    return max(1, int(whole * running.peer.shrink))


def warm_up(running: Running) -> None:
    """Logs in and out unmeasured: the first logins of a process are dearer than later ones."""
    options = _tls(running) | {"concurrency": min(AT_ONCE, running.peer.at_once)}
    with Load("logins", running.port, count=_share(_FIRST, running), **options) as load:
        load.work()


def login(site: Site, running: Running, handshake: str, few: bool = False, **more: int) -> Sample:
    """Logs in and out, twenty at a time, or as many as the peer can bear."""
    sizes = site.sizes
    whole = sizes.tls_logins if handshake or few else sizes.logins
    total = _share(whole * (sizes.turns if few else 1), running)
    options: dict[str, Any] = {"concurrency": min(AT_ONCE, running.peer.at_once), **more}
    if handshake:
        options["tls"] = handshake
    with Load("logins", running.port, count=total, **options) as load, metered(running) as meter:
        before = load.cpu_seconds() + site.backend.cpu_seconds()
        seen = load.work()
        others = load.cpu_seconds() + site.backend.cpu_seconds() - before
    if handshake == "resumed" and seen.resumed < 0.9 * total:
        raise BenchError(f"only {seen.resumed} of {total} sessions were resumed")
    return Sample(
        meter.cpu / total * 1e6, seen.p50_us, seen.p99_us, total / seen.seconds,
        others / total * 1e6, meter.ticks,
    )  # fmt: skip


def timed_login(kind: str, site: Site, running: Running) -> Samples:
    """Logs in and out: the cost, and where twenty came at a time how long they waited."""
    sample = login(site, running, "" if kind == "plain" else "full")
    samples = {f"login-{kind}": sample}
    if running.peer.at_once >= AT_ONCE:
        samples[f"latency-{kind}"] = Sample(sample.p50_us / 1000)
    return samples


def login_awake(site: Site, running: Running) -> Samples:
    """Logs in and out while neither the load nor the back end ever sleeps.

    Who sends to a process that sleeps on the same machine pays for waking it, and the slower it
    answers, the more often the others have gone to sleep. Between machines nobody pays for that.
    """
    with site.backend.awake():
        return {"login-awake": login(site, running, "", awake=1)}


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
    return Sample(
        meter.cpu * 1000 / (total / 1e9), rate=total / 1e6 / seen.seconds, ticks=meter.ticks
    )


def ping(site: Site, running: Running) -> Sample:
    """Plays NOOP and OK on four sessions."""
    total = site.sizes.round_trips
    with (
        Load("ping", running.port, sessions=4, count=total, **_tls(running)) as load,
        metered(running) as meter,
    ):
        seen = load.work()
    return Sample(
        meter.cpu / total * 1e6, seen.p50_us, seen.p99_us, total / seen.seconds, ticks=meter.ticks
    )


def idle(site: Site, running: Running) -> Samples:
    """Holds idle sessions on a fresh instance: their memory, and what a login costs among them."""
    kind = "tls" if running.tls else "plain"
    sessions = _share(site.sizes.idle_tls if running.tls else site.sizes.idle, running)
    _bursts(site, running)  # a warm-up
    alone = _bursts(site, running)
    memory = [(0, proc.pss_bytes(running.pid))]
    options = _tls(running) | {"concurrency": min(100, running.peer.at_once)}
    with ExitStack() as stack:
        holds = []
        for part in _STAGES:
            more = max(1, int(sessions * part)) - memory[-1][0]
            load = Load("hold", running.port, sessions=more, limit=60, **options)
            holds.append(stack.enter_context(load))
            time.sleep(0.2)
            memory.append((memory[-1][0] + more, proc.pss_bytes(running.pid)))
        among = _bursts(site, running)
        lost = memory[-1][0] - sum(hold.work().alive for hold in holds)
    if lost:
        raise BenchError(f"{lost} of {sessions} idle sessions were lost")
    held = memory[-1][1] - memory[0][1]
    dearer = tuple(one / other for one, other in zip(among, alone, strict=True))
    return {
        f"idle-{kind}": Sample(held / 1024 / memory[-1][0], memory=tuple(memory)),
        f"crowd-{kind}": Sample(statistics.median(dearer), each=dearer),
    }


def _bursts(site: Site, running: Running, times: int = 3) -> list[float]:
    """Gives the cost of a login in each of some bursts of them."""
    handshake = "full" if running.tls else ""
    return [login(site, running, handshake, few=True).cost for _ in range(times)]


def _tls(running: Running) -> dict[str, Any]:
    return {"tls": "full"} if running.tls else {}


def two_workers(site: Site, peer: Peer) -> Samples:
    """Compares what one worker and two can carry, by the CPU time of the busiest.

    The load needs the processors, too, so that the logins a second of two workers on two processors
    say little. But a worker can't do more than fill its processor: where one needs a second of CPU
    for so many logins, and the busier of two that run at once needs half a second for as many, two
    carry twice as much. Each has twenty clients at a time. Whatever they take from each other
    (locks, caches, an uneven share of the clients) makes the busier one need more. RSA, where the
    server's part is the largest.
    """
    needed, rates = [], []
    for workers in (1, 2):
        with ExitStack() as stack:
            setting = dataclasses.replace(site.setting(peer, "rsa"), workers=workers)
            running = Running(peer, setting, free=True)
            stack.callback(running.stop)
            login(site, running, "full")
            before = proc.cpu_by_process(running.pid)
            total = site.sizes.turns * site.sizes.tls_logins * 8
            options: dict[str, Any] = {"tls": "full", "concurrency": AT_ONCE * workers}
            with Load("logins", running.port, free=True, count=total, **options) as load:
                rates.append(total / load.work().seconds)
            proc.settled_cpu_seconds(running.pid, running.processes, limit=0.5)
            after = proc.cpu_by_process(running.pid)
            needed.append(max(after[pid] - before.get(pid, 0.0) for pid in after))
    return {"workers": Sample(needed[0] / needed[1], rate=rates[1])}


def start(site: Site, running: Running) -> Sample:
    """Tells how long the start took of the peer that stands."""
    return Sample(running.start_seconds * 1000)


def start_with_map(site: Site, peer: Peer) -> Samples:
    """Starts with a map of users."""
    setting = site.setting(peer, "plain")
    popmap = site.folder / "popmap"
    if not popmap.exists():
        popmap.write_text("".join(f"user{n}:127.0.0.1\n" for n in range(_USERS)))
    running = Running(peer, dataclasses.replace(setting, popmap=popmap))
    running.stop()
    return {"start-map": Sample(running.start_seconds * 1000)}


def inetd(site: Site, peer: Peer, times: int = 5) -> Samples:
    """Starts a process for one client, as inetd does."""
    setting = site.setting(peer, "plain")
    setting.folder.mkdir()
    command = pinned([*peer.command(setting), "--inetd_mode"], 0)
    return {"inetd": Sample(statistics.median(_greeting_ms(command) for _ in range(times)))}


def _greeting_ms(command: list[str]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=10)
        server = listener.accept()[0]
    began = time.perf_counter()
    with client, server:
        process = subprocess.Popen(
            command, stdin=server.fileno(), stdout=server.fileno(), stderr=subprocess.DEVNULL
        )
        try:
            server.close()
            if not client.recv(100).startswith(b"* OK"):
                raise BenchError("no greeting in inetd mode")
            needed = time.perf_counter() - began
            client.close()
            process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            raise BenchError("inetd mode hangs") from None
        finally:
            process.kill()
            process.wait()
    return needed * 1000


@dataclass(frozen=True)
class Job:
    """One thing to run in a round.

    `run` gets a peer that stands, in a flavour: "plain" or the name of a key pair; a fresh job gets
    an instance of its own, and `alone` starts what it needs by itself, for the peers that it names.
    `quick` ones are part of `--quick`. `starts` ones have one figure for each start.
    """

    name: str
    flavour: str
    run: Callable[[Site, Running], Samples] | None = None
    fresh: bool = False
    alone: Callable[[Site, Peer], Samples] | None = None
    peers: tuple[str, ...] = ()
    relays: bool = False
    quick: bool = True
    starts: bool = False

    def turns(self, sizes: Sizes) -> int:
        """Says how often within a round each peer has a turn."""
        return 1 if self.fresh or self.starts or self.alone else sizes.turns

    def rounds(self, sizes: Sizes) -> int:
        """Says in how many rounds it has a turn."""
        if self.starts and not sizes.renews:
            return 1
        return sizes.idle_rounds if self.fresh else sizes.rounds

    def is_for(self, peer: Peer) -> bool:
        """Tells whether the peer can be asked for it."""
        if not self.name.startswith(peer.only):
            return False
        if self.relays and self.flavour not in peer.relays:
            return False
        return (not self.peers or peer.name in self.peers) and (
            peer.has_tls or self.flavour == "plain"
        )


def _one(key: str, run: Callable[[Site, Running], Sample], flavour: str = "tls") -> Job:
    flavour = "plain" if key.endswith("-plain") else flavour
    relays = key.startswith(("fetch", "append"))
    return Job(
        key, flavour, lambda site, running: {key: run(site, running)},
        relays=relays, starts=key.startswith("start"),
    )  # fmt: skip


JOBS = (
    Job("login-plain", "plain", lambda site, running: timed_login("plain", site, running)),
    Job("login-tls", "tls", lambda site, running: timed_login("tls", site, running)),
    Job("login-awake", "plain", login_awake, quick=False),
    _one("login-rsa", lambda site, running: login(site, running, "full"), "rsa"),
    _one("login-resumed", lambda site, running: login(site, running, "resumed")),
    _one("fetch-plain", lambda site, running: relay(site, running, "fetch")),
    _one("append-plain", lambda site, running: relay(site, running, "append")),
    _one("fetch-tls", lambda site, running: relay(site, running, "fetch")),
    _one("append-tls", lambda site, running: relay(site, running, "append")),
    _one("noop-plain", ping),
    _one("noop-tls", ping),
    _one("start-plain", start),
    _one("start-tls", start),
    Job("start-map", "plain", alone=start_with_map, peers=("ours",), quick=False),
    Job("inetd", "plain", alone=inetd, peers=("perdition2", "ours"), quick=False),
    Job("workers", "rsa", alone=two_workers, peers=("ours",), quick=False),
    Job("idle-plain", "plain", idle, fresh=True),
    Job("idle-tls", "tls", idle, fresh=True),
)
