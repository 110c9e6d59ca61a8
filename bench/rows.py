"""The rows of the table and their targets: the one place to change either."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

BEST = "best"  # instead of a peer's name: whoever did best in the round, of those that log in


@dataclass(frozen=True)
class Target:
    """Ours must be at most `limit`: times the figure of a peer, or in the row's own unit."""

    limit: float
    peer: str = ""
    at_least: bool = False  # more is better

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}× {self.peer}" if self.peer else f"{sign} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        """Tells whether the figure, or ratio, is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One measure; less is better in every one but where a target says otherwise."""

    key: str
    title: str
    unit: str
    targets: tuple[Target, ...] = ()

    @property
    def is_ratio(self) -> bool:
        """Tells rows that compare a peer with itself: there the ratio of peers says nothing."""
        return self.unit == "×"


@dataclass(frozen=True)
class Sample:
    """One peer's figure of one round, and what the clients saw meanwhile."""

    cost: float
    p50_us: int = 0
    p99_us: int = 0
    rate: float = 0.0
    others: float = 0.0  # of logins: CPU of load and back end, in the unit of the cost
    ticks: tuple[int, int] = (0, 0)  # of the CPU: in the program, in the kernel
    memory: tuple[tuple[int, int], ...] = ()  # sessions held, bytes of the whole peer
    each: tuple[float, ...] = ()  # where the cost is a median: of these

    @classmethod
    def of(cls, parts: Sequence[Self]) -> Self:
        """Puts the turns of a round together: the median of each figure."""
        middle = statistics.median
        return cls(
            middle(part.cost for part in parts),
            round(middle(part.p50_us for part in parts)),
            round(middle(part.p99_us for part in parts)),
            middle(part.rate for part in parts),
            middle(part.others for part in parts),
            (sum(part.ticks[0] for part in parts), sum(part.ticks[1] for part in parts)),
        )


def _against(**limits: float) -> tuple[Target, ...]:
    return tuple(Target(limit, peer) for peer, limit in limits.items())


ROWS = (
    Row(
        "login-plain", "plain login + logout", "µs CPU",
        _against(nginx=0.8, dovecot=0.45, perdition2=0.05),
    ),
    Row("login-awake", "the same, load and back end never asleep", "µs CPU"),
    Row(
        "login-tls", "TLS 1.3 login, full handshake, P-256", "µs CPU",
        _against(nginx=0.9, dovecot=0.55, perdition2=0.125),
    ),
    Row("login-rsa", "TLS 1.3 login, full handshake, RSA-2048", "µs CPU", _against(nginx=0.95)),
    Row("login-resumed", "TLS 1.3 login, resumed", "µs CPU", _against(nginx=0.95)),
    Row("latency-plain", "plain login, 20 at a time, median", "ms", _against(best=0.7)),
    Row("latency-tls", "TLS login, 20 at a time, median", "ms", _against(best=0.7)),
    Row("fetch-plain", "relay to the client, plain", "ms CPU/GB", _against(nginx=0.4)),
    Row("append-plain", "relay to the server, plain", "ms CPU/GB", _against(nginx=0.4)),
    Row("fetch-tls", "relay to the client, TLS", "ms CPU/GB", _against(nginx=0.6, haproxy=0.8)),
    Row("append-tls", "relay to the server, TLS", "ms CPU/GB", _against(nginx=0.8)),
    Row("noop-plain", "NOOP round trip, plain", "µs CPU"),
    Row("noop-tls", "NOOP round trip, TLS", "µs CPU", _against(nginx=1.2, dovecot=0.7)),
    Row("idle-plain", "idle session, plain", "kB PSS", (Target(3.0),)),
    Row("idle-tls", "idle session, TLS", "kB PSS", (Target(15.0),)),
    Row("crowd-plain", "plain login among the idle / alone", "×", (Target(1.1),)),
    Row("crowd-tls", "TLS login among the idle / alone", "×", (Target(1.1),)),
    Row("workers", "logins of two workers / of one", "×", (Target(1.8, at_least=True),)),
    Row("start-plain", "start to first greeting, plain", "ms", (Target(300.0),)),
    Row("start-tls", "start to first greeting, TLS", "ms", (Target(300.0),)),
    Row("start-map", "the same, plain, with a map", "ms", (Target(300.0),)),
    Row("inetd", "inetd mode, start to greeting", "ms", (Target(150.0),)),
)  # fmt: skip
