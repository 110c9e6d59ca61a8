"""What perditionctl shows of the answers of daemons, one function for each kind.

Each takes the answers of the daemons that gave one, prints, and returns whether all is well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from perdition.ops.control_calls import Answer
from perdition.ops.tables import plain, size, span, table, width_of_terminal
from perdition.session.health import merged_servers

Row = dict[str, Any]
Answers = Sequence[Answer]


def _print(heads: Sequence[str], rows: Sequence[Sequence[object]], answers: Answers) -> None:
    """Print a table; the column of daemons is left out where there is one daemon only."""
    if len(answers) < 2:
        heads, rows = heads[1:], [row[1:] for row in rows]
    print("\n".join(table(heads, rows, width_of_terminal(), "ID")))


def _rows(answers: Answers) -> Iterator[tuple[str, Row]]:
    for answer in answers:
        for row in answer.rows:
            yield answer.name.removeprefix("perdition."), row


def show_status(answers: Answers, _: argparse.Namespace) -> bool:
    """Daemons, then what is worth a word about them."""
    heads = ("DAEMON", "PID", "UP", "SESSIONS", "LIMIT", "CLIENTS", "REFUSED", "WORKERS", "LISTENS")
    cells = []
    for answer in answers:
        s = answer.status
        current = [worker for worker in s["workers"] if not worker["old"]]
        cells.append(
            (answer.name.removeprefix("perdition."), answer.pid, span(s["seconds"]), s["sessions"],
             s["limit"] or None, s["connections"], s["refused"], len(current), s["listens"])
        )  # fmt: skip
    print("\n".join(table(heads, cells, width_of_terminal())))
    for answer in answers:
        for remark in _remarks(answer.status):
            print(f"{answer.name}: {plain(remark)}")
    return True


def _remarks(s: Row) -> Iterator[str]:
    if s["stopping"]:
        yield "stopping: waits for its sessions to end"
    old = [worker for worker in s["workers"] if worker["old"]]
    if old:
        sessions = sum(worker["sessions"] for worker in old)
        yield f"old workers: {len(old)}, with {sessions} sessions that go on to their end"
    if s["drained"]:
        yield f"drained: {', '.join(s['drained'])}"
    if s["restarts"]:
        yield f"workers that died and were replaced: {s['restarts']}"
    for problem in s["reload_problems"]:
        yield f"the last reload failed: {problem}"


_SESSION_HEADS = (
    "DAEMON", "ID", "USER", "CLIENT", "SERVER", "TLS", "AGE", "IDLE", "IN", "OUT",
)  # fmt: skip


def _session(daemon: str, row: Row) -> tuple[object, ...]:
    user = row["user"] or None
    if row["authorisation_id"]:
        user = f"{user} as {row['authorisation_id']}"
    if not row["logged_in"]:
        user = f"({user or 'no login yet'})"
    tls = (row["tls"] or "-").removeprefix("TLSv")
    server_tls = (row["server_tls"] or "-").removeprefix("TLSv")
    return (
        daemon, row["id"], user, row["client"], row["server"], f"{tls}/{server_tls}",
        span(row["seconds"]), span(row["idle"]), size(row["received"]), size(row["sent"]),
    )  # fmt: skip


def show_who(answers: Answers, words: argparse.Namespace) -> bool:
    """Sessions, the oldest first; False when one was asked for and is not there."""
    rows = sorted(_rows(answers), key=lambda pair: -pair[1]["seconds"])
    if rows:
        _print(_SESSION_HEADS, [_session(daemon, row) for daemon, row in rows], answers)
    else:
        print(f"no session of {plain(words.match)}" if words.match else "no sessions")
    if any(answer.more for answer in answers):
        print("… and more")
    return bool(rows) or not words.match


def show_kicked(answers: Answers, words: argparse.Namespace) -> bool:
    """The sessions that were ended; False when there were none."""
    rows = [_session(daemon, row) for daemon, row in _rows(answers)]
    if rows:
        _print(_SESSION_HEADS, rows, answers)
        print(f"ended: {len(rows)}")
    else:
        print(f"no session of {plain(words.match)}")
    return bool(rows)


def show_servers(answers: Answers, _: argparse.Namespace) -> bool:
    """Servers, each once a daemon."""
    heads = ("DAEMON", "SERVER", "STATE", "RETRY IN", "SESSIONS", "LOGINS", "FAILED", "LATENCY")
    cells = [
        (
            answer.name.removeprefix("perdition."), row["server"], row["state"],
            None if row["retry"] is None else span(row["retry"]), row["sessions"],
            row["answers"], row["failures"],
            None if row["latency"] is None else f"{row['latency'] * 1000:.1f} ms",
        )
        for answer in answers
        for row in merged_servers(answer.rows)
    ]  # fmt: skip
    if cells:
        _print(heads, cells, answers)
    else:
        print("no server has been asked yet")
    return True


def show_done(answers: Answers, _: argparse.Namespace) -> bool:
    """A line for each daemon."""
    for answer in answers:
        print(f"{answer.name}: done")
    return True


def show_drained(answers: Answers, words: argparse.Namespace) -> bool:
    """What is still there, or that nothing ever was: then it may be another spelling."""
    for answer in answers:
        sessions = sum(row.get("sessions", 0) for row in answer.rows)
        text = f"{answer.name}: drained; {sessions} sessions go on"
        if not any(row.get("known", True) for row in answer.rows):
            text = f"{answer.name}: drained; no login has gone to {plain(words.server)} so far"
        print(text)
    return True


def show_flushed(answers: Answers, _: argparse.Namespace) -> bool:
    """How many answers were forgotten."""
    for answer in answers:
        count = sum(row["flushed"] for row in answer.rows)
        print(f"{answer.name}: {count} answers forgotten")
    return True


def show_stopping(answers: Answers, _: argparse.Namespace) -> bool:
    """A line for each daemon."""
    for answer in answers:
        print(f"{answer.name}: stopping")
    return True


def show_upgraded(answers: Answers, _: argparse.Namespace) -> bool:
    """What each daemon was and is."""
    for answer in answers:
        for row in answer.rows:
            versions = f"{row['before']} -> {row['version']}"
            print(f"{answer.name}: {versions}, {row['sessions']} sessions go on")
    return True


def show_trace(answers: Answers, words: argparse.Namespace) -> bool:
    """Where the trace goes."""
    for answer in answers:
        what = "no longer traces" if words.stop else "traces"
        print(f"{answer.name}: {what} {plain(words.user)}")
    if answers and not words.stop:
        print(f"sessions that begin within {words.seconds} s are written to {words.file}")
    return True
