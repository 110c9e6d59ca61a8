"""What a login makes the interpreter do: instructions and calls, function by function.

It counts, and takes no time: the figures are the same on every machine and in every run, so a
change of a few in a hundred shows, which no clock here could tell. C code and the kernel are not
in them. Run as `python -m bench.opcodes [--tls] [--lines N]`.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from bench.measure import QUICK, ground
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


def _count(report: Path, command: list[str]) -> None:
    """Is the proxy, and counts what its worker does from the first client on."""
    from perdition.cli import main as proxy  # noqa: PLC0415 - not what measures, but what is measured
    from perdition.server.worker import Worker  # noqa: PLC0415

    instructions: Counter[CodeType] = Counter()
    calls: Counter[CodeType] = Counter()

    def called(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        code = frame.f_code
        calls[code] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def stepped(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            if event == "opcode":
                instructions[code] += 1
            return stepped

        return stepped

    run, listen = Worker.run, Worker._listen

    def counted_run(self: Worker) -> int:
        status = run(self)
        sys.settrace(None)
        found = []
        for code, number in instructions.items():
            place = f"{code.co_filename.rpartition('perdition/')[2]}:{code.co_firstlineno}"
            found.append([code.co_qualname, place, calls[code], number])
        report.write_text(json.dumps(found))
        return status

    def counted_listen(self: Worker) -> None:
        listen(self)
        sys.settrace(called)

    Worker.run, Worker._listen = counted_run, counted_listen  # type: ignore[method-assign]
    sys.argv = command
    proxy()


def measure(*, tls: bool = False) -> list[Function]:
    """Gives what each function takes of a login and logout, the greediest first."""
    build()
    with ExitStack() as stack:
        site = stack.enter_context(ground(QUICK))
        running = site.start(Wrapped("bench.opcodes", "--count"), "tls" if tls else "plain")
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


def main() -> None:
    """Prints the table."""
    if sys.argv[1:2] == ["--count"]:
        _count(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(prog="bench.opcodes", description="Instructions of a login.")
    parser.add_argument("--tls", action="store_true", help="through TLS")
    parser.add_argument("--lines", type=int, default=60, metavar="N", help="how many functions")
    arguments = parser.parse_args()
    found = measure(tls=arguments.tls)
    total = sum(function.instructions for function in found)
    calls = sum(function.calls for function in found)
    print(f"{total:8.0f} instructions, {calls:.0f} calls of functions in Python")
    for function in found[: arguments.lines]:
        print(
            f"{function.instructions:8.0f} {function.calls:6.1f}  {function.name}  {function.place}"
        )


if __name__ == "__main__":
    main()
