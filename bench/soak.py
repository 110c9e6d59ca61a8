"""Logins by the hundred thousand and bytes by the gigabyte: memory stays flat, no descriptor stays.

Run as `python -m bench.soak`; one worker with TLS and one without share the work, in slices. Ends
with status 1 when anything fails, or when memory after the last slice is more than after the
warm-up, or descriptors are more than before the first client.
"""

import argparse
import resource
import sys
import time
from contextlib import ExitStack
from typing import Any

from bench import proc
from bench.measure import FULL, ground
from bench.peers.base import Running
from bench.peers.ours import Ours
from bench.programs import BenchError, Load, build
from bench.steady import GROWTH

_WARM_UP = 2  # slices


def _slice(running: Running, logins: int, size: int) -> None:
    """Logs in and out, then moves half of the bytes each way."""
    tls: dict[str, Any] = {"tls": "full"} if running.tls else {}
    with Load("logins", running.port, count=logins, limit=300, **tls) as load:
        load.work()
    for mode in ("fetch", "append"):
        half = size // 2
        with Load(mode, running.port, sessions=2, bytes=half, limit=300, **tls) as load:
            if load.work().moved < half - 1:
                raise BenchError(f"{mode}: bytes were lost")


def run(logins: int, gigabytes: float, slices: int) -> None:
    """Runs all slices; says after each what memory there is."""
    each = max(1, logins // slices // 2), max(4, int(gigabytes * 1e9 / slices / 2))
    began = time.monotonic()
    with ExitStack() as stack:
        site = stack.enter_context(ground(FULL))
        peers = [site.start(Ours(), flavour) for flavour in ("plain", "tls")]
        for running in peers:
            stack.callback(running.stop)
        files = [proc.open_files(running.pid) for running in peers]
        memory = []
        for number in range(1, slices + 1):
            for running in peers:
                _slice(running, *each)
                proc.settled_cpu_seconds(running.pid, running.processes, limit=1)
            memory.append([proc.rss_bytes(running.pid) for running in peers])
            shown = ", ".join(f"{rss / 1e6:.2f}" for rss in memory[-1])
            print(f"{number}/{slices}: {shown} MB plain, TLS", flush=True)
        grown = [
            proc.open_files(running.pid) - at for running, at in zip(peers, files, strict=True)
        ]
    print(
        f"{each[0] * 2 * slices} logins and {each[1] * 2 * slices / 1e9:g} GB in "
        f"{time.monotonic() - began:.0f} s"
    )
    for kind, before, after, more in zip(
        ("plain", "TLS"), memory[_WARM_UP - 1], memory[-1], grown, strict=True
    ):
        print(
            f"{kind}: {before / 1e6:.2f} -> {after / 1e6:.2f} MB "
            f"({after / before - 1:+.2%} since the warm-up), {more:+} descriptors"
        )
        if after > before * (1 + GROWTH) or more > 0:
            raise BenchError("it grows")


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--logins", type=int, default=200_000)
    parser.add_argument("--gigabytes", type=float, default=50)
    parser.add_argument("--slices", type=int, default=20)
    words = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        build()
        run(words.logins, words.gigabytes, max(_WARM_UP, words.slices))
    except BenchError as error:
        print(f"bench.soak: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
