"""The control verbs, as the master carries them out: one function each, in `VERBS`.

A verb checks its words, does the master's part, and has the workers do theirs (`answers`).
Invariant: a word that is none raises `Refusal` before anything is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perdition import __version__
from perdition.server.callers import Caller
from perdition.server.questions import Worker

if TYPE_CHECKING:
    from perdition.server.desk import Desk

Words = dict[str, Any]
ROWS = 100_000  # of one worker in one answer, at most
_TEXT = 4096  # characters of a word


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
        verb, words, lambda part: caller.say(part + b"\n"),
        lambda late: desk.finish(caller, late), fds=fds,
    )  # fmt: skip


def status(desk: Desk, caller: Caller, words: Words) -> None:
    """Say what the daemon is, and of each worker whether it answers."""

    def tell(late: Sequence[Worker]) -> None:
        desk.say(caller, status=_status(desk, late))
        desk.finish(caller, late)

    desk.ask_workers("ping", {}, lambda _: None, tell)


def _status(desk: Desk, late: Sequence[Worker]) -> dict[str, object]:
    master = desk.master
    config, counters, now = master.config, master.counters, time.monotonic()
    workers = [
        {
            "worker": child.number + 1,
            "pid": child.pid,
            "sessions": counters.row("sessions")[child.column],
            "connections": counters.row("connections")[child.column],
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


Verb = Callable[["Desk", Caller, Words], None]
VERBS: dict[str, Verb] = {each.__name__: each for each in (status, who, kick, servers)}
