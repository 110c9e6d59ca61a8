"""Every error that crosses a room's door.

    PerditionError
    ├── ConfigError       options that can't be used: all problems at once, each with its place
    ├── StartError        the daemon can't come up: port, key, privilege, pid file, log
    ├── MapError          a popmap can't answer now, or its options can't be used
    ├── WireError         a peer broke its protocol or a bound; the session ends
    ├── PeerGone          a peer closed or reset its connection
    └── DeadlineExpired   a wait had an end and reached it

What happens to one login that does not succeed is no exception but a value:
`perdition.wire.base.Refused`, which says what the client hears apart from what the log says.
"""

from __future__ import annotations

from collections.abc import Sequence


class PerditionError(Exception):
    """The root: the text is fit for the log and never holds a secret."""


class ConfigError(PerditionError):
    """Options that can't be used; `problems` has one line for each, place first."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartError(PerditionError):
    """The daemon can't come up; the text names the file, port or user at fault."""


class MapError(PerditionError):
    """A popmap can't answer: its database is down, slow or broken, or its options are no good."""


class WireError(PerditionError):
    """A peer broke its protocol or a bound."""


class PeerGone(PerditionError):
    """A peer closed or reset its connection; `unreachable`: it was never there."""

    def __init__(self, why: str, *, unreachable: bool = False) -> None:
        super().__init__(why)
        self.unreachable = unreachable


class DeadlineExpired(PerditionError):
    """A wait reached its end."""
