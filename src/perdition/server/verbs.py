"""The control verbs, as the master carries them out: one function each, in `VERBS`.

A verb checks its words, does the master's part, and has the workers do theirs (`answers`).
Invariant: a word that is none raises `Refusal` before anything is done.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perdition import __version__
from perdition.log import PRIORITY_NAMES
from perdition.route import Server, is_address, parse_server
from perdition.server.callers import Caller
from perdition.server.questions import Worker
from perdition.session.tracing import LONGEST, USERS

if TYPE_CHECKING:
    from perdition.server.desk import Desk

Words = dict[str, Any]
ROWS = 100_000  # of one worker in one answer, at most
_TEXT = 4096  # characters of a word
_DRAINED = 1000  # servers


class Refusal(Exception):
    """What was asked can't be done; the text says why."""


def _text(words: Words, name: str, default: str | None = None) -> str:
    value = words.get(name, default)
    if not isinstance(value, str) or len(value) > _TEXT or (default is None and not value):
        raise Refusal(f"{name}: a text is needed, of {_TEXT} characters at most")
    return value


def _number(words: Words, name: str, default: int, most: int) -> int:
    value = words.get(name, default)
    if type(value) is not int or not 0 < value <= most:
        raise Refusal(f"{name}: a number from 1 to {most} is needed")
    return value


def _ask_all(desk: Desk, caller: Caller, verb: str, words: Words, *fds: int) -> None:
    """Send the caller what all workers answer."""
    desk.ask_workers(
        caller, verb, words, lambda part: caller.say(part + b"\n"),
        lambda late: desk.finish(caller, late), fds=fds,
    )  # fmt: skip


def status(desk: Desk, caller: Caller, words: Words) -> None:
    """Say what the daemon is, and of each worker whether it answers."""

    def tell(late: Sequence[Worker]) -> None:
        desk.say(caller, status=_status(desk, late))
        desk.finish(caller, late)

    desk.ask_workers(caller, "ping", {}, lambda _: None, tell)


def _status(desk: Desk, late: Sequence[Worker]) -> dict[str, object]:
    master = desk.master
    config, counters, now = master.config, master.counters, time.monotonic()
    workers = [
        {
            "worker": child.number + 1,
            "pid": child.pid,
            "sessions": counters.held("sessions", child.column),
            "connections": counters.held("connections", child.column),
            "seconds": int(now - child.started),
            "old": child.generation is not master.current,
            "answers": child not in late,
        }
        for child in master.children()
    ]
    return {
        "ident": config.basename,
        "pid": os.getpid(),
        "version": __version__,
        "protocol": config.protocol,
        "configuration": config.config_path,
        "listens": str(master.current.listeners),
        "seconds": int(now - master.started),
        "stopping": bool(master.stop_by),
        "sessions": counters.total("sessions"),
        "connections": counters.total("connections"),
        "refused": counters.total("refused"),
        "limit": config.connection_limit,
        "restarts": master.restarts,
        "drained": sorted(map(str, master.drained)),
        "log_level": PRIORITY_NAMES[master.log.most],
        "reload_problems": list(master.reload_problems),
        "workers": workers,
    }


def who(desk: Desk, caller: Caller, words: Words) -> None:
    """Show the sessions, or those of one user, client's address or session id."""
    match = _text(words, "match", "")
    limit = _number(words, "limit", ROWS, ROWS)
    _ask_all(desk, caller, "who", {"match": match, "limit": limit})


def kick(desk: Desk, caller: Caller, words: Words) -> None:
    """End the sessions of one user or client's address, or one session."""
    match = _text(words, "match")
    desk.master.log.notice(f"control: kick {match}")
    _ask_all(desk, caller, "kick", {"match": match})


def servers(desk: Desk, caller: Caller, words: Words) -> None:
    """Show the servers that the workers know."""
    _ask_all(desk, caller, "servers", {})


def drain(desk: Desk, caller: Caller, words: Words) -> None:
    """Send no new sessions to a server; those that it has go on."""
    server = _server(words)
    if len(desk.master.drained) >= _DRAINED:
        raise Refusal(f"{_DRAINED} servers are drained already")
    desk.master.drained.add(server)
    _tell_drained(desk, caller, "drain", server)


def undrain(desk: Desk, caller: Caller, words: Words) -> None:
    """Send new sessions to a server again."""
    server, drained = _server(words), desk.master.drained
    if server not in drained:
        are = ", ".join(sorted(map(str, drained))) or "none"
        raise Refusal(f"{server} is not drained; drained: {are}")
    drained.remove(server)
    _tell_drained(desk, caller, "undrain", server)


def _server(words: Words) -> Server:
    try:
        server = parse_server(_text(words, "server"))
    except ValueError as error:
        raise Refusal(str(error)) from None
    if ":" in server.host and not is_address(server.host):
        raise Refusal(f"not a server: {server.host!r}: HOST, HOST:PORT, [ADDRESS]:PORT")
    return Server(server.host.lower(), server.port)


def _tell_drained(desk: Desk, caller: Caller, what: str, server: Server) -> None:
    desk.master.log.notice(f"control: {what} {server}")
    drained = [list(each) for each in desk.master.drained]
    _ask_all(desk, caller, "drained", {"servers": drained, "server": list(server)})


def flush(desk: Desk, caller: Caller, words: Words) -> None:
    """Forget what the popmap said, of one user or of all."""
    user = _text(words, "user", "")
    desk.master.log.notice(f"control: flush {user}".rstrip())
    _ask_all(desk, caller, "flush", {"user": user})


def log_level(desk: Desk, caller: Caller, words: Words) -> None:
    """Log more or less, until the next reload."""
    level = _text(words, "level")
    if level not in PRIORITY_NAMES.values():
        raise Refusal(f"level: one of {', '.join(PRIORITY_NAMES.values())}")
    desk.master.log.notice(f"control: log-level {level}")
    desk.master.log.set_level(level)
    _ask_all(desk, caller, "log_level", {"level": level})


def trace(desk: Desk, caller: Caller, words: Words) -> None:
    """Write the dialogues of a user's next sessions to the file sent along; none: no more."""
    user, traces = _text(words, "user"), desk.master.traces
    seconds = _number(words, "seconds", 600, LONGEST)
    if not caller.fds:
        traces.remove(user)
        _ask_all(desk, caller, "trace", {"user": user})
        return
    fd = caller.fds[0]
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refusal("no regular file was sent along")
    traces.expire()
    if len(traces.wanted) >= USERS:
        raise Refusal(f"{USERS} users are traced already")
    until = time.monotonic() + seconds
    desk.master.log.notice(f"control: trace {user} for {seconds} s")
    traces.add(user, fd, until)
    _ask_all(desk, caller, "trace", {"user": user, "until": until}, fd)


def reload(desk: Desk, caller: Caller, words: Words) -> None:
    """Read configuration, certificates and maps anew, as SIGHUP has it done."""
    master = desk.master
    if master.stop_by:
        raise Refusal("it is stopping")
    master.reload()
    if master.reload_problems:
        problems = [*master.reload_problems, "the old configuration stays in force"]
        raise Refusal("\n".join(problems))
    desk.finish(caller)


def upgrade(desk: Desk, caller: Caller, words: Words) -> None:
    """Become the version that is installed now; old sessions live to their end."""
    master = desk.master
    if master.stop_by:
        raise Refusal("it is stopping")
    problems = master.upgrade(caller.sock)
    raise Refusal("\n".join((*problems, "the old version stays in service")))


def stop(desk: Desk, caller: Caller, words: Words) -> None:
    """Stop as on SIGTERM: accept no more, let sessions end within shutdown_timeout."""
    desk.finish(caller)
    if not desk.master.stop_by:
        os.kill(os.getpid(), signal.SIGTERM)


Verb = Callable[["Desk", Caller, Words], None]
VERBS: dict[str, Verb] = {
    each.__name__: each
    for each in (
        status, who, kick, servers, drain, undrain, flush, log_level, trace, reload, upgrade, stop,
    )
}  # fmt: skip
