"""What a master knows of its workers: the configuration they serve, and each of them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from perdition.config import Config
from perdition.server.helpers import Helpers
from perdition.server.listen import Listeners
from perdition.server.privileges import Identity
from perdition.server.setup import Inherited


@dataclass(slots=True)
class Child:
    """A worker as the master sees it."""

    pid: int
    number: int  # which sockets it accepts from
    column: int  # its column of the counters
    control: socket.socket
    generation: Generation
    started: float  # monotonic
    ready: bool = False
    unanswered: int = 0  # questions of the desk


@dataclass(slots=True)
class Generation:
    """One configuration in force, with all that was made from it."""

    config: Config
    inherited: Inherited
    helpers: Helpers | None
    listeners: Listeners
    identity: Identity
    workers: int
    children: dict[int, Child] = field(default_factory=dict)  # by pid
