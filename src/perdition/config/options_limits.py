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
        "A client is sent away at this many bad commands before it is logged in. 0: no limit.",
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
        "Let a client wait so long for the answer to a failed login. Nobody else waits.",
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
    server_line_limit: int = opt(
        65_536,
        number(1024, 16 * _MEGABYTE),
        "Longest line, in bytes, that a server may send before the login is through.",
        meta="BYTES",
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
