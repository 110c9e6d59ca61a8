"""Judge a configuration in a child process, so that what that needs is no part of a daemon.

The library that reads certificates has ten megabytes, which every worker would inherit.
For a process that may fork: one thread, no loop.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from perdition.check import certificates
from perdition.check.findings import ERROR, NOTE
from perdition.check.rules import judge
from perdition.config import Config

_FOREVER = float("inf")  # when every certificate will have expired


class Verdict(NamedTuple):
    """What `judge` says, as far as a daemon has to do with it."""

    errors: tuple[str, ...] = ()
    told: tuple[str, ...] = ()  # what the log says: errors, and what is odd about certificates
    expected: tuple[str, ...] = ()  # errors that there are, or will be when time has passed

    def new_errors(self, before: Verdict) -> list[str]:
        """The errors that were not there, nor to be expected, when `before` was given."""
        return [error for error in self.errors if error not in before.expected]


def verdict(config: Config) -> Verdict:
    """Judge a configuration; nothing of it stays in this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_judged(config), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    try:
        errors, told, expected = json.loads(text)
    except ValueError:
        return Verdict(told=("the configuration could not be judged",))
    return Verdict(tuple(errors), tuple(told), tuple(expected))


def _judged(config: Config) -> Verdict:
    found = judge(config)
    errors = [each.text for each in found if each.level == ERROR]
    shown = [each for each in found if certificates.is_about(each) and each.level != NOTE]
    told = dict.fromkeys([*errors, *(each.text for each in shown)])
    expected = [each.text for each in judge(config, _FOREVER) if each.level == ERROR]
    return Verdict(tuple(errors), tuple(told), tuple(expected))
