"""Many idle TLS sessions and a steady stream of logins on one worker: no error, no growth.

Run as `python -m bench.steady`; ends with status 1 when a login fails, an idle session is lost, or
memory or descriptors have grown since the warm-up.
"""

import argparse
import resource
import sys
import time
from contextlib import ExitStack

from bench import proc
from bench.measure import FULL, ground
from bench.peers.base import Running
from bench.peers.ours import Ours
from bench.programs import BenchError, Load, build

GROWTH = 0.02  # share of the memory after the warm-up that may come on top of it


def stream(running: Running, rate: int, seconds: int) -> float:
    """Logs in and out `rate` times a second; returns the worst 99th percentile in ms."""
    worst = 0.0
    next_second = time.monotonic()
    for _ in range(seconds):
        with Load("logins", running.port, count=rate, tls="full") as load:
            worst = max(worst, load.work().p99_us / 1000)
        next_second += 1
        time.sleep(max(0.0, next_second - time.monotonic()))
    return worst


def run(sessions: int, rate: int, seconds: int) -> None:
    """Holds the sessions, streams the logins, compares before and after."""
    warm_up = max(1, seconds // 6)
    with ExitStack() as stack:
        running = stack.enter_context(ground(FULL)).start(Ours(), "tls")
        stack.callback(running.stop)
        hold = stack.enter_context(
            Load("hold", running.port, sessions=sessions, concurrency=100, tls="full")
        )
        stream(running, rate, warm_up)
        before, files = proc.rss_bytes(running.pid), proc.open_files(running.pid)
        cpu = proc.cpu_seconds(running.pid)
        worst = stream(running, rate, seconds)
        cpu = proc.cpu_seconds(running.pid) - cpu
        after = proc.rss_bytes(running.pid)
        grown = proc.open_files(running.pid) - files
        alive = hold.work().alive
    print(
        f"{sessions} idle TLS sessions, {rate} logins/s for {seconds} s on one worker: "
        f"{alive} still alive, worst p99 {worst:.1f} ms, {cpu / seconds:.0%} of a processor, "
        f"{before / 1e6:.1f} -> {after / 1e6:.1f} MB, {grown:+} descriptors"
    )
    if alive != sessions:
        raise BenchError(f"{sessions - alive} idle sessions were lost")
    if after > before * (1 + GROWTH) or grown > 0:
        raise BenchError("it grows")


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench.steady", description=__doc__)
    parser.add_argument("--sessions", type=int, default=3000)
    parser.add_argument("--rate", type=int, default=200, help="logins a second")
    parser.add_argument("--seconds", type=int, default=60)
    words = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        build()
        run(words.sessions, words.rate, words.seconds)
    except BenchError as error:
        print(f"bench.steady: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
