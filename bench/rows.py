"""The rows of the table and their targets: the one place to change either."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Ours must be at most `limit`: times the figure of a peer, or in the row's own unit."""

    limit: float
    peer: str = ""

    def __str__(self) -> str:
        return f"≤ {self.limit:g}× {self.peer}" if self.peer else f"≤ {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One measure; less is better in every one."""

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


ROWS = (
    Row("login-plain", "plain login + logout", "µs CPU", (Target(1.0, "nginx"),)),
    Row("login-tls", "TLS 1.3 login, full handshake", "µs CPU", (Target(1.1, "nginx"),)),
    Row("login-resumed", "TLS 1.3 login, resumed", "µs CPU"),
    Row("fetch-plain", "relay to the client, plain", "ms CPU/GB"),
    Row("append-plain", "relay to the server, plain", "ms CPU/GB"),
    Row("fetch-tls", "relay to the client, TLS", "ms CPU/GB"),
    Row("append-tls", "relay to the server, TLS", "ms CPU/GB"),
    Row("noop-plain", "NOOP round trip, plain", "µs CPU"),
    Row("noop-tls", "NOOP round trip, TLS", "µs CPU"),
    Row("idle-plain", "idle session, plain", "kB PSS"),
    Row("idle-tls", "idle session, TLS", "kB PSS", (Target(18.0),)),
    Row("crowd-plain", "plain login among the idle / alone", "×"),
    Row("crowd-tls", "TLS login among the idle / alone", "×"),
    Row("start-plain", "start to first greeting, plain", "ms"),
    Row("start-tls", "start to first greeting, TLS", "ms"),
)
