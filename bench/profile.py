"""Where a peer's CPU goes while it works: the kernel, OpenSSL, the C library, its own program.

Run as `python -m bench.profile [--peers NAMES] [--seconds N]`. perf (Debian: linux-perf) looks some
thousand times a second at what runs; where it is missing or not allowed, there is no profile. The
C library's part is mostly what OpenSSL allocates and copies; in Python's program is the interpreter
with all that it calls of its own.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import proc
from bench.measure import FULL, JOBS, Job, Site, ground, warm_up
from bench.peers import PEERS
from bench.peers.base import Running
from bench.programs import BenchError, build

Shares = dict[str, float]  # of the CPU, by part

ROWS = ("login-tls", "fetch-tls", "noop-tls")
OF = ("nginx", "dovecot", "haproxy", "bare", "ours")
PROGRAM = "program"
_PARTS = {
    "kernel": ("[kernel", "[guest.kernel"),
    "OpenSSL": ("libcrypto.", "libssl."),
    "C library": ("libc.", "libm.", "ld-linux", "[vdso]"),
}
PARTS = (*_PARTS, PROGRAM)
_TIMES_A_SECOND = 4999


@contextmanager
def _sampled(running: Running, into: Path) -> Iterator[None]:
    """Samples all processes of the peer inside the `with`."""
    (orders, order), (answer, answers) = os.pipe(), os.pipe()
    command = [
        "perf", "record", "-q", "-e", "cpu-clock", "-F", str(_TIMES_A_SECOND), "-o", str(into),
        "-D", "-1", "--control", f"fd:{orders},{answers}",
        "-p", ",".join(map(str, proc.tree(running.pid))),
    ]  # fmt: skip
    try:
        with subprocess.Popen(
            command, pass_fds=(orders, answers), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as perf:  # fmt: skip
            os.close(answers)
            answers = -1
            os.write(order, b"enable\n")
            if not os.read(answer, 100):
                said = perf.stderr.read().split("\n") if perf.stderr else []
                raise BenchError(f"perf: {said[0] or 'ended early'}")
            try:
                yield
            finally:
                perf.send_signal(signal.SIGINT)
    finally:
        for each in (orders, order, answer, answers):
            if each >= 0:
                os.close(each)


def shares(report: str) -> Shares:
    """Adds up the lines of `perf report --sort dso -t ,`, which are a share and a file each."""
    found = dict.fromkeys(PARTS, 0.0)
    for line in report.splitlines():
        share, _, file = line.partition(",")
        if not file:
            continue
        parts = (name for name, starts in _PARTS.items() if file.startswith(starts))
        found[next(parts, PROGRAM)] += float(share.strip(" %")) / 100
    return found


def _profile(site: Site, job: Job, running: Running, seconds: float) -> Shares:
    assert job.run is not None
    into = running.folder / "perf.data"
    with _sampled(running, into):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job.run(site, running)
    command = ["perf", "report", "-q", "--stdio", "--sort", "dso", "-t", ",", "-i", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"perf report: {done.stderr.strip()[:200]}")
    return shares(done.stdout)


def measure(names: tuple[str, ...] = OF, seconds: float = 2.0) -> dict[str, dict[str, Shares]]:
    """Gives by row and peer the shares of the parts; BenchError: it can't be known here."""
    if not shutil.which("perf"):
        raise BenchError("missing: perf (linux-perf)")
    build()
    found: dict[str, dict[str, Shares]] = {}
    with ground(FULL) as site:
        for job in (job for job in JOBS if job.name in ROWS):
            for peer in (peer for peer in PEERS if peer.name in names and not peer.missing()):
                with ExitStack() as stack:
                    running = site.start(peer, job.flavour)
                    stack.callback(running.stop)
                    warm_up(running)
                    each = found.setdefault(job.name, {})
                    each[peer.name] = _profile(site, job, running, seconds)
    return found


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="bench.profile", description="Where CPU time goes.")
    parser.add_argument(
        "--peers", default=",".join(OF), metavar="NAMES", help="some of the bench's"
    )
    parser.add_argument("--seconds", type=float, default=2.0, metavar="N", help="for each")
    arguments = parser.parse_args()
    try:
        found = measure(tuple(arguments.peers.split(",")), arguments.seconds)
    except BenchError as error:
        print(f"bench.profile: {error}", file=sys.stderr)
        return 2
    print(f"{'':24}" + "".join(f"{part:>12}" for part in PARTS))
    for row, peers in found.items():
        for peer, parts in peers.items():
            cells = "".join(f"{100 * share:10.1f} %" for share in parts.values())
            print(f"{row:12}{peer:12}{cells}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
