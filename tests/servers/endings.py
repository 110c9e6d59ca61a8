"""What stands until the test run ends. The processes of a parallel run do not call `atexit`."""

from __future__ import annotations

from collections.abc import Callable

_endings: list[Callable[[], object]] = []


def at_end(call: Callable[[], object]) -> None:
    """Call it when the run ends, the last one first."""
    _endings.append(call)


def end_all() -> None:
    """The run has ended."""
    while _endings:
        _endings.pop()()
