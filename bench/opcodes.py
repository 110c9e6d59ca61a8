"""What a login makes the interpreter do: instructions and calls, function by function.

It counts, and takes no time: the figures are the same on every machine and in every run, so a
change of a few in a hundred shows, which no clock here could tell. C code and the kernel are not
in them. Run as `python -m bench.opcodes [--tls] [--bare] [--lines N]`.
"""

import argparse
import json
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from bench.measure import QUICK, ground
from bench.peers.bare import Bare
from bench.peers.base import Setting
from bench.peers.ours import Wrapped, report_of
from bench.programs import Load, build

_LOGINS = 300


@dataclass(frozen=True)
class Function:
    """What one function of ours takes of a login."""

    name: str
    place: str
    calls: float
    instructions: float


def _place(code: CodeType) -> str:
    """Where it stands: in which file of ours, or of what name; nothing of this machine."""
    _, ours, within = code.co_filename.rpartition("perdition/")
    return f"{within if ours else Path(code.co_filename).name}:{code.co_firstlineno}"


class _Count:
    """What this process does from `begin` on."""

    def __init__(self) -> None:
        self._instructions: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def begin(self) -> None:
        """Counts from the next call of a function on."""
        sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code, instructions = frame.f_code, self._instructions
        if code.co_filename == __file__:
            return None
        self._calls[code] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def stepped(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            if event == "opcode":
                instructions[code] += 1
            return stepped

        return stepped

    def write(self, report: Path) -> None:
        """Ends the count."""
        sys.settrace(None)
        found = []
        for code, number in self._instructions.items():
            found.append([code.co_qualname, _place(code), self._calls[code], number])
        report.write_text(json.dumps(found))


def _count_ours(report: Path, command: list[str]) -> None:
    """Is the proxy, and counts what its worker does from the first client on."""
    from perdition.cli import main as proxy  # noqa: PLC0415 - not what measures, but what is measured
    from perdition.server.worker import Worker  # noqa: PLC0415

    count = _Count()
    run, listen = Worker.run, Worker._listen

    def counted_run(self: Worker) -> int:
        status = run(self)
        count.write(report)
        return status

    def counted_listen(self: Worker) -> None:
        listen(self)
        count.begin()

    Worker.run, Worker._listen = counted_run, counted_listen  # type: ignore[method-assign]
    sys.argv = command
    proxy()


def _count_bare(report: Path, command: list[str]) -> None:
    """Is `bench/bare.py`, and counts what it does until it is told to end."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    count = _Count()
    sys.argv = command
    count.begin()
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        count.write(report)


_COUNTS = {"--count-ours": _count_ours, "--count-bare": _count_bare}


class _CountedBare(Bare):
    """Bare Python that counts its steps."""

    def command(self, setting: Setting) -> list[str]:
        python, *rest = super().command(setting)
        return [
            python,
            "-m",
            "bench.opcodes",
            "--count-bare",
            str(report_of(setting.folder)),
            *rest,
        ]


def measure(*, tls: bool = False, bare: bool = False) -> list[Function]:
    """Gives what each function takes of a login and logout, the greediest first."""
    build()
    peer = _CountedBare() if bare else Wrapped("bench.opcodes", "--count-ours")
    with ExitStack() as stack:
        site = stack.enter_context(ground(QUICK))
        running = site.start(peer, "tls" if tls else "plain")
        stack.callback(running.stop)
        options: dict[str, Any] = {"tls": "full"} if tls else {}
        with Load("logins", running.port, count=_LOGINS, concurrency=20, **options) as load:
            load.work()
        running.stop()
        found = json.loads(report_of(running.folder).read_text())
    each = [Function(name, place, n / _LOGINS, i / _LOGINS) for name, place, n, i in found]
    return sorted(each, key=lambda function: -function.instructions)


def by_file() -> dict[str, dict[str, float]]:
    """Gives the instructions of a plain login and of one through TLS, file by file."""
    found: dict[str, dict[str, float]] = {}
    for kind, tls in (("plain", False), ("tls", True)):
        files: Counter[str] = Counter()
        for function in measure(tls=tls):
            files[function.place.partition(":")[0]] += function.instructions  # type: ignore[assignment]
        found[kind] = dict(files.most_common())
    return found


def of_bare() -> dict[str, float]:
    """Gives the instructions of bare Python for a plain login and for one through TLS."""
    found = {"plain": measure(bare=True), "tls": measure(bare=True, tls=True)}
    return {kind: sum(each.instructions for each in found[kind]) for kind in found}


def main() -> None:
    """Prints the table."""
    if count := _COUNTS.get("".join(sys.argv[1:2])):
        count(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(prog="bench.opcodes", description="Instructions of a login.")
    parser.add_argument("--tls", action="store_true", help="through TLS")
    parser.add_argument("--bare", action="store_true", help="of bare Python, not of ours")
    parser.add_argument("--lines", type=int, default=60, metavar="N", help="how many functions")
    arguments = parser.parse_args()
    found = measure(tls=arguments.tls, bare=arguments.bare)
    total = sum(function.instructions for function in found)
    calls = sum(function.calls for function in found)
    print(f"{total:8.0f} instructions, {calls:.0f} calls of functions in Python")
    for function in found[: arguments.lines]:
        print(
            f"{function.instructions:8.0f} {function.calls:6.1f}  {function.name}  {function.place}"
        )


if __name__ == "__main__":
    main()
