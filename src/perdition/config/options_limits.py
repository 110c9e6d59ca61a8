"""The options that bound something: times, sizes, counts. See `options.py`."""

from __future__ import annotations

from dataclasses import dataclass

from perdition.config.fields import opt
from perdition.config.readers import count, number

_DAY = 86_400
_MEGABYTE = 1_048_576


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class LimitOptions:
    """Limits and times"""

    address_connection_limit: int = opt(
        1000,
        number(0, 1_000_000),
        "Most clients of one address, over all workers, that have not logged in yet; one more is "
        "refused. IPv6 addresses count by their network of 64 bits. 0: no limit, for a daemon "
        "behind a load balancer that does not tell who its clients are.",
        meta="LIMIT",
        since="3.0",
    )
    authenticate_timeout: int = opt(
        60,
        count,
        "A client that has not logged in this long after it connected is sent away; failed "
        "attempts do not start the time anew. 0: no limit.",
        meta="SECONDS",
    )
    bad_command_limit: int = opt(
        10,
        number(0, 1_000_000),
        "A client is sent away at this many bad commands before it is logged in. 0: no limit but "
        "that of 250 answers of any kind.",
        meta="LIMIT",
        since="3.0",
    )
    connect_relog: int = opt(
        300,
        count,
        "Log the line of a successful login again at this interval while its session lasts, for "
        "programs that learn from the log who is there. 0: only once.",
        meta="SECONDS",
    )
    connect_timeout: int = opt(
        10,
        number(1, 3600),
        "Try each address of a server for so long before the next one.",
        meta="SECONDS",
        since="3.0",
    )
    connection_limit: int = opt(
        0,
        count,
        "Most clients at once, over all workers; one more is told to come back later. 0: no limit.",
        short="L",
        meta="LIMIT",
        example="100",
    )
    failed_login_limit: int = opt(
        10,
        number(0, 1_000_000),
        "A client is sent away at this many failed logins on one connection. 0: no limit.",
        meta="LIMIT",
        since="3.0",
    )
    failure_delay: int = opt(
        3,
        number(0, 300),
        "Let a client wait so long for the answer to a failed login. Each further failure of the "
        "same user from the same address doubles the time, up to failure_delay_limit, and until "
        "it is over no login of this user from there is tried; nobody else waits. A login that "
        "succeeds, or ten minutes, and it begins anew. 0: nobody waits.",
        meta="SECONDS",
        since="3.0",
    )
    failure_delay_limit: int = opt(
        15,
        number(0, 3600),
        "Longest wait for failed logins.",
        meta="SECONDS",
        since="3.0",
    )
    greeting_timeout: int = opt(
        20,
        number(1, 3600),
        "Most time from the start of a connection to a server until it is ready for the login.",
        meta="SECONDS",
        since="3.0",
    )
    line_limit: int = opt(
        8192,
        number(512, _MEGABYTE),
        "Longest line, in bytes, that a client may send before it is logged in.",
        meta="BYTES",
        since="3.0",
    )
    listen_backlog: int = opt(
        1024,
        number(1, 65_535),
        "Connections that the kernel keeps waiting until a worker accepts them; it has an upper "
        "bound of its own (net.core.somaxconn).",
        meta="NUMBER",
        since="3.0",
    )
    literal_limit: int = opt(
        4096,
        number(64, _MEGABYTE),
        "Longest literal, in bytes, that a client may send before it is logged in.",
        meta="BYTES",
        since="3.0",
    )
    login_timeout: int = opt(
        40,
        number(1, 3600),
        "Most time from the start of a connection to a server until it has answered the login.",
        meta="SECONDS",
        since="3.0",
    )
    map_cache_lifetime: int = opt(
        0,
        number(0, _DAY),
        "Give a popmap's answer again for so long without asking. Not for maps in files, which "
        "are asked every time. 0: ask for every login.",
        meta="SECONDS",
        since="3.0",
    )
    map_cache_size: int = opt(
        100_000,
        number(0, 10_000_000),
        "Most answers of a popmap that a worker keeps. 0: none, also not for a popmap that is "
        "down.",
        meta="NUMBER",
        since="3.0",
    )
    map_connections: int = opt(
        4,
        number(1, 256),
        "Connections that each worker may have to a popmap's database or service.",
        meta="NUMBER",
        since="3.0",
    )
    map_negative_lifetime: int = opt(
        0,
        number(0, _DAY),
        "Take a user whom the popmap does not know as unknown for so long without asking.",
        meta="SECONDS",
        since="3.0",
    )
    map_queue_limit: int = opt(
        1000,
        number(1, 1_000_000),
        "Most look-ups of a worker that may be under way; one more fails for now.",
        meta="NUMBER",
        since="3.0",
    )
    map_stale_lifetime: int = opt(
        86_400,
        number(0, 30 * _DAY),
        "When the popmap is down, users go where it last said, if that is no longer ago.",
        meta="SECONDS",
        since="3.0",
    )
    map_timeout: int = opt(
        10,
        number(1, 600),
        "Most time that a look-up in the popmap may take.",
        meta="SECONDS",
        since="3.0",
    )
    pam_processes: int = opt(
        4,
        number(1, 64),
        "Processes that check passwords for authenticate_in, each one password at a time.",
        meta="NUMBER",
        since="3.0",
    )
    pam_timeout: int = opt(
        20,
        number(1, 300),
        "Most time that the check of a password by authenticate_in may take.",
        meta="SECONDS",
        since="3.0",
    )
    pipeline_limit: int = opt(
        65_536,
        number(4096, 16 * _MEGABYTE),
        "Most bytes kept of what a client sends behind its login before that is answered; the "
        "rest waits in the network.",
        meta="BYTES",
        since="3.0",
    )
    reload_timeout: int = opt(
        0,
        number(0, 30 * _DAY),
        "Time that sessions begun under the old configuration may go on after SIGHUP. 0: until "
        "they end.",
        meta="SECONDS",
        since="3.0",
    )
    server_connection_limit: int = opt(
        0,
        number(0, 10_000_000),
        "Most sessions at one server; each worker has its share, rounded up. More go to the "
        "user's next server or are told to come back. 0: no limit.",
        meta="LIMIT",
        since="3.0",
    )
    server_line_limit: int = opt(
        65_536,
        number(1024, 16 * _MEGABYTE),
        "Longest line, in bytes, that a server may send before the login is through.",
        meta="BYTES",
        since="3.0",
    )
    server_retry: int = opt(
        10,
        number(0, 3600),
        "A server that could not be reached is tried last for so long; one that was waited for in "
        "vain is not tried, but by one client each time. 0: always try every server.",
        meta="SECONDS",
        since="3.0",
    )
    shutdown_timeout: int = opt(
        10,
        number(0, 30 * _DAY),
        "Time that sessions may go on after SIGTERM. 0: until they end.",
        meta="SECONDS",
        since="3.0",
    )
    timeout: int = opt(
        1800,
        count,
        "Close a session when nothing has moved in either direction for so long. The protocols "
        "ask for 1800 at least; mail clients that wait for news (IDLE) speak every 29 minutes. "
        "0: never.",
        short="t",
        meta="SECONDS",
    )
    workers: int = opt(
        0,
        number(0, 1024),
        "Processes that serve clients. 0: one for each CPU.",
        meta="NUMBER",
        since="3.0",
    )
