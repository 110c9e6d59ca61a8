"""perditionctl: see and steer the running daemons of a host, all at once.

It talks to their control sockets and nothing else. Invariant: the exit status is 0 only if every
daemon did what was asked of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from perdition.ops.control_calls import Answer, ask, find
from perdition.ops.control_views import (
    show_done,
    show_drained,
    show_flushed,
    show_kicked,
    show_servers,
    show_status,
    show_stopping,
    show_trace,
    show_upgraded,
    show_who,
)
from perdition.ops.tables import plain
from perdition.places import RUN_FOLDER

OK, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3
SECONDS = 5.0  # until a daemon must have answered
RELOAD_SECONDS = 60.0
UPGRADE_SECONDS = 120.0
LEVELS = ("error", "notice", "info", "debug")


class Word(NamedTuple):
    """A word behind a verb."""

    name: str
    help: str
    default: str | None = None  # None: it must be given
    choices: tuple[str, ...] | None = None


class Verb(NamedTuple):
    """A verb: its help, its words, and how its answers are shown (True: all is well)."""

    help: str
    show: Callable[[Sequence[Answer], argparse.Namespace], bool]
    words: tuple[Word, ...] = ()
    seconds: float = SECONDS


_SERVER = Word("server", "HOST or HOST:PORT as `servers` shows it; without a port: any")

VERBS: dict[str, Verb] = {
    "status": Verb("Show the daemons: sessions, workers, and what is wrong.", show_status),
    "who": Verb(
        "Show the sessions; all, or those of one user, client's address or session id.",
        show_who,
        (Word("match", "whose; none: all", ""),),
    ),
    "kick": Verb(
        "End the sessions of one user or client's address, or one session.",
        show_kicked,
        (Word("match", "whose"),),
    ),
    "servers": Verb(
        "Show the servers: up or down, how quickly they answer logins, their sessions.",
        show_servers,
    ),
    "drain": Verb(
        "Send no new sessions to a server; those that it has go on. A reload keeps it so, a "
        "restart does not.",
        show_drained,
        (_SERVER,),
    ),
    "undrain": Verb("Send new sessions to a drained server again.", show_done, (_SERVER,)),
    "flush": Verb(
        "Forget what the popmap said, of one user or of all; maps in files are read anew anyway.",
        show_flushed,
        (Word("user", "name as it is given at the login", ""),),
    ),
    "log-level": Verb(
        "Log more or less, until the next reload.",
        show_done,
        (Word("level", "how little must matter to be logged", choices=LEVELS),),
    ),
    "trace": Verb(
        "Write the dialogues of a user's next sessions, up to the login, to a file; passwords are "
        "masked.",
        show_trace,
        (Word("user", "name as it is given at the login"),),
    ),
    "reload": Verb(
        "Read configuration, certificates and maps anew; a bad configuration changes nothing.",
        show_done,
        seconds=RELOAD_SECONDS,
    ),
    "upgrade": Verb(
        "Have the running daemons become the version that is installed now. Sessions live on, no "
        "client is refused; a version that does not come up changes nothing.",
        show_upgraded,
        seconds=UPGRADE_SECONDS,
    ),
    "stop": Verb(
        "Stop the daemons: no new clients, sessions may end within shutdown_timeout. Our units do "
        "not start them again; another service manager may.",
        show_stopping,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The command's words."""
    top = argparse.ArgumentParser(
        prog="perditionctl",
        description="See and steer the running Perdition daemons of this host, all at once.",
        epilog="Exit status: 0 done, 1 failed or not by all, 2 usage, 3 no daemon runs.",
        allow_abbrev=False,
    )
    common = argparse.ArgumentParser(add_help=False)
    for each, default in ((top, False), (common, argparse.SUPPRESS)):
        each.add_argument(
            "--json",
            action="store_true",
            default=default,
            help="one JSON object instead of tables, for programs",
        )
    top.add_argument(
        "--run-dir",
        metavar="DIR",
        default=RUN_FOLDER,
        help="folder of the control sockets (default: %(default)s)",
    )
    top.add_argument(
        "--socket", metavar="FILE", action="append", default=[],
        help="ask the daemon with this control_socket only; may be repeated",
    )  # fmt: skip
    top.add_argument(
        "--daemon", metavar="NAME", default="",
        help="only daemons of this name, such as imap4s or perdition.imap4s",
    )  # fmt: skip
    top.add_argument(
        "--wait", metavar="SECONDS", type=float, default=None,
        help=f"how long to wait for answers (default: {SECONDS:g}; longer for reload and upgrade)",
    )  # fmt: skip
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        words = verbs.add_parser(name, help=verb.help, description=verb.help, parents=[common])
        for word in verb.words:
            words.add_argument(
                word.name,
                help=word.help,
                choices=word.choices,
                default=word.default,
                nargs=None if word.default is None else "?",
            )
        if name == "trace":
            _add_trace_options(words)
    return top


def _add_trace_options(words: argparse.ArgumentParser) -> None:
    words.add_argument(
        "--file", default="", help="a new file; default: perdition-USER-TIME.trace right here"
    )
    words.add_argument(
        "--seconds",
        type=int,
        default=600,
        help="trace sessions that begin within that time (default: %(default)s)",
    )
    words.add_argument("--stop", action="store_true", help="trace the user no more")


def _trace_file(words: argparse.Namespace) -> int:
    """Make the file for a trace, that nobody else may read; it is handed to the daemons."""
    if not words.file:
        user = re.sub(r"[^\w.@+-]|^\.", "_", words.user, flags=re.ASCII)[:64]
        words.file = f"perdition-{user}-{time.strftime('%Y%m%d-%H%M%S')}.trace"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.open(words.file, flags, 0o600)


def _sockets(words: argparse.Namespace) -> list[str]:
    paths: list[str] = [os.path.abspath(path) for path in words.socket]
    return paths or find(words.run_dir)


def _of_daemon(answer: Answer, name: str) -> bool:
    return not name or name in (answer.name, answer.name.removeprefix("perdition."))


def run(argv: Iterable[str] | None = None) -> int:
    """Carry out one command; return the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if not given:
        parser().print_help(sys.stderr)
        return USAGE
    words = parser().parse_args(given)
    verb = VERBS[words.verb]
    paths = _sockets(words)
    if words.daemon:
        living = ask(paths, {"verb": "status"}, SECONDS)
        paths = [answer.socket for answer in living if _of_daemon(answer, words.daemon)]
    request: dict[str, object] = {"verb": words.verb.replace("-", "_")}
    request |= {word.name: getattr(words, word.name) for word in verb.words}
    fds = []
    if words.verb == "trace":
        request["seconds"] = words.seconds
        fds = [] if words.stop or not paths else [_trace_file(words)]
    answers = ask(paths, request, words.wait or verb.seconds, fds)
    if not answers:
        of = f" of the name {words.daemon}" if words.daemon else ""
        where = ", ".join(words.socket) or words.run_dir
        _complain(
            f"no daemon{of} answers at {where}: none runs, or its control_socket is elsewhere"
        )
        return NOT_RUNNING
    for answer in answers:
        for line in answer.error.splitlines():
            _complain(f"{answer.name}: {plain(line)}")
        for pid in answer.late:
            _complain(f"{answer.name}: worker [{pid}] does not answer")
    if words.json:
        print(json.dumps({"daemons": [_as_json(answer) for answer in answers]}, indent=1))
        shown = True
    else:
        shown = verb.show([answer for answer in answers if not answer.error], words)
    whole = not any(answer.error or answer.late for answer in answers)
    return OK if shown and whole else FAILED


def _as_json(answer: Answer) -> dict[str, object]:
    about = {"daemon": answer.ident, "pid": answer.pid, "socket": answer.socket}
    return {
        **about,
        "error": answer.error or None,
        "late": answer.late,
        "more": answer.more,
        **({"status": answer.status} if answer.status else {"rows": answer.rows}),
    }


def _complain(text: str) -> None:
    print(f"perditionctl: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The console command."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        status = OK  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except (OSError, KeyboardInterrupt) as error:
        _complain(str(error) or "interrupted")
        status = FAILED
    sys.exit(status)
