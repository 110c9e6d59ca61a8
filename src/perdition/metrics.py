"""THE metric table: what is counted on the way of a session, and how it is counted in place.

A family has one cell for each of its series; a worker's cells are plain integers, in memory that
all processes share (`perdition.server.counters`), so counting asks nobody and nobody asks a worker
for its counts. To add a metric: one line here, one call where it happens. Labels have few values,
none of them a user's or a client's.
Invariant: a cell only ever grows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, MutableSequence
from typing import NamedTuple

from perdition.tls_socket import TlsSocket
from perdition.wire.base import Reason


class Family(NamedTuple):
    """A counter, or with `bounds` (seconds) a histogram; `first` is where its cells begin.

    A histogram's series has a cell for each bound, one for what is longer, and one for the sum in
    microseconds.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    series: tuple[tuple[str, ...], ...]
    first: int
    bounds: tuple[float, ...] = ()

    @property
    def stride(self) -> int:
        """Cells of one series."""
        return len(self.bounds) + 2 if self.bounds else 1


class Times(NamedTuple):
    """Where a series of a histogram has its cells, for `Meter.took`."""

    bounds: tuple[float, ...]
    first: int
    sum: int


FAMILIES: list[Family] = []


def _family(
    name: str, help: str, labels: str = "", series: Iterable[tuple[str, ...]] = ((),), *,
    bounds: tuple[float, ...] = (),
) -> Family:  # fmt: skip
    last = FAMILIES[-1] if FAMILIES else None
    first = last.first + len(last.series) * last.stride if last else 0
    family = Family(name, help, tuple(labels.split()), tuple(series), first, bounds)
    FAMILIES.append(family)
    return family


def _times(family: Family, number: int = 0) -> Times:
    """Where the histogram's series of that number has its cells."""
    first = family.first + number * family.stride
    return Times(family.bounds, first, first + family.stride - 1)


_LOGINS = _family(
    "perdition_logins", "Logins by outcome.", "result reason",
    [("ok", "accepted"), *(("failed", reason.name.lower()) for reason in Reason),
     ("abandoned", "client_gone"), ("abandoned", "timeout")],
)  # fmt: skip
LOGIN = {
    reason: _LOGINS.first + number for number, reason in enumerate((None, *Reason))
}  # of a Reason; of None: it was accepted
LOGIN_CLIENT_GONE = _LOGINS.first + len(LOGIN)
LOGIN_TIMED_OUT = LOGIN_CLIENT_GONE + 1

_LOGIN_SECONDS = _family(
    "perdition_login_seconds", "Time from a client's credentials to the verdict.", "result",
    [("ok",), ("failed",)],
    bounds=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)  # fmt: skip
ACCEPTED_SECONDS, FAILED_SECONDS = _times(_LOGIN_SECONDS, 0), _times(_LOGIN_SECONDS, 1)
LOOKUP_SECONDS = _times(_family(
    "perdition_lookup_seconds", "Time of look-ups in the popmap.",
    bounds=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0),
))  # fmt: skip

_LOOKUPS = _family(
    "perdition_lookups", "Look-ups in the popmap by outcome.", "result",
    [("found",), ("unknown",), ("error",)],
)  # fmt: skip
LOOKUP_FOUND, LOOKUP_UNKNOWN, LOOKUP_ERROR = range(_LOOKUPS.first, _LOOKUPS.first + 3)

_CACHE = _family(
    "perdition_map_cache",
    "Answers of the cache of the popmap: stale ones stood in for a popmap that was down.",
    "result", [("hit",), ("miss",), ("stale",)],
)  # fmt: skip
CACHE_HIT, CACHE_MISS, CACHE_STALE = range(_CACHE.first, _CACHE.first + 3)

_BYTES = _family(
    "perdition_relayed_bytes", "Bytes relayed after logins, from clients and to clients.",
    "direction", [("received",), ("sent",)],
)  # fmt: skip
RECEIVED, SENT = _BYTES.first, _BYTES.first + 1

_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", "other")
_VERSION = {name: 2 * number for number, name in enumerate(_VERSIONS)}
_OTHER = _VERSION["other"]
_HANDSHAKES = _family(
    "perdition_tls_handshakes", "TLS handshakes with clients and servers.", "peer version resumed",
    [(peer, version, resumed) for peer in ("client", "server") for version in _VERSIONS
     for resumed in ("no", "yes")],
)  # fmt: skip
TLS_CLIENT = _HANDSHAKES.first
TLS_SERVER = TLS_CLIENT + 2 * len(_VERSIONS)
_TLS_FAILURES = _family(
    "perdition_tls_failures", "TLS handshakes that failed.", "peer", [("client",), ("server",)]
)
TLS_CLIENT_FAILED, TLS_SERVER_FAILED = _TLS_FAILURES.first, _TLS_FAILURES.first + 1

_LIMIT_NAMES = (
    "address_connection_limit", "authenticate_timeout", "bad_command_limit", "failed_login_limit",
    "map_queue_limit", "open_files", "server_connection_limit", "timeout",
)  # fmt: skip
_LIMITS = _family(
    "perdition_limits", "How often a limit was reached.", "limit",
    [(name,) for name in _LIMIT_NAMES],
)  # fmt: skip
LIMIT = {name: _LIMITS.first + number for number, name in enumerate(_LIMIT_NAMES)}

WIDTH = FAMILIES[-1].first + len(FAMILIES[-1].series) * FAMILIES[-1].stride


class Meter:
    """Counts of one process, in place."""

    __slots__ = ("cells",)

    def __init__(self, cells: MutableSequence[int] | memoryview | None = None) -> None:
        """Count in `cells`, of which there are WIDTH; None: where nobody looks."""
        self.cells = [0] * WIDTH if cells is None else cells

    def count(self, cell: int) -> None:
        """One more."""
        self.cells[cell] += 1

    def took(self, times: Times, seconds: float) -> None:
        """Something took so long."""
        cells = self.cells
        bounds, first, total = times
        cells[first + bisect_left(bounds, seconds)] += 1
        cells[total] += int(seconds * 1e6)

    def login(self, failure: Reason | None, seconds: float) -> None:
        """A login was decided; `failure` None: it was accepted."""
        self.cells[LOGIN[failure]] += 1
        self.took(ACCEPTED_SECONDS if failure is None else FAILED_SECONDS, seconds)

    def secured(self, first: int, sock: TlsSocket) -> None:
        """A handshake with TLS_CLIENT or TLS_SERVER is through."""
        tls = sock.tls
        version = _VERSION.get(tls.version(), _OTHER)
        self.cells[first + version + tls.session_reused] += 1
