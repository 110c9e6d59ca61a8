"""The manual pages of the commands beside the daemons, rendered from their parsers.

``python -m perdition.ops.pages [ROOT]`` rewrites those that are kept in the source tree, as
`perdition.config.manual` does for perdition(8), whose markup this uses.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from perdition import __version__
from perdition.config.manual import roff, roff_blocks, write
from perdition.ops import control, makedb, map_tables, service


class _Page(NamedTuple):
    """A page: what it is about in a line, and the chapters that no parser knows of."""

    parser: argparse.ArgumentParser
    section: int
    about: str
    chapters: Mapping[str, str]


_MAKEDB = """\
Each line of the input is KEY:VALUE; a key is a user's name, or what query_key makes of it, a value
a server: HOST, HOST:PORT, or several with commas between, in order of preference. Lines without a
colon or a key are named with their number and left out. Of a key that comes twice the first line
counts. The new file takes the old one's place, mode and owner when it is whole, so that a running
perdition never reads half a map. The exit status is 0, or 255 when the file was not made.
"""

_TABLES = """\
What is there already is left as it is. A running perdition needs the right to read only: make a
user for it first.
"""

_CONTROL = {
    "WHAT THE TABLES SHOW": """
status: below the table is what is worth a word: workers that died, a reload that failed and why,
sessions that an old configuration or version still serves, drained servers.

who: a user in brackets has not logged in (yet). TLS is that of the client, then that of the server;
IN and OUT are bytes since the login. The oldest session is first.

servers: up, down (and when it is tried again), slow (it let a client wait until a deadline), partly
down (some workers reach it) or drained. Logins and failures are those since the workers began, the
latency is a moving average of the time until a login is answered.
""",
    "TRACES": """
A trace shows what client, Perdition and server said up to the login, with passwords masked, which
server was chosen and how the session ended; never mail. It belongs to who asked for it and takes 4
megabytes at most.
""",
    "FILES": """
/run/perdition/NAME.PID.sock, unless the option control_socket says otherwise. Only root and the
user who started the daemon may open it.
""",
    "SEE ALSO": "perdition(8), perdition-service(8)",
}

_SERVICE = {
    "FILES": """
/etc/default/perdition: RUN_PERDITION=yes, and for each of POP3, POP3S, IMAP4, IMAP4S and
MANAGESIEVE yes or no. FLAGS holds words for every daemon, POP3_FLAGS and its like those of one.
/run/perdition/NAME.pid: the number of each daemon.
""",
    "SEE ALSO": "perdition(8), perditionctl(1), systemctl(1)",
}


def _pages() -> Iterator[_Page]:
    yield _Page(
        control.parser(), 1, "see and steer the running Perdition daemons of this host", _CONTROL
    )
    yield _Page(service.parser(), 8, "start and stop the Perdition daemons of this host", _SERVICE)
    for kind, name in (("gdbm", "GNU dbm"), ("bdb", "Berkeley DB")):
        chapters = {"INPUT": _MAKEDB, "SEE ALSO": "perdition(8)"}
        yield _Page(makedb.parser(f"make{kind}"), 1, f"make a popmap's file for {name}", chapters)
    for kind in map_tables.KINDS:
        chapters = {"NOTES": _TABLES, "SEE ALSO": "perdition(8)"}
        yield _Page(map_tables.parser(kind), 8, f"make an empty popmap for {kind}", chapters)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            yield action


def _verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _shown(action: argparse.Action) -> str:
    if not action.option_strings:
        name = str(action.metavar or action.dest).upper()
        return f"[{name}]" if action.nargs == "?" else name
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(action.option_strings) + value


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    if text == "show this help message and exit":
        text = "Show the words that there are."
    if action.choices:
        text += f": {', '.join(map(str, action.choices))}"
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _entry(head: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {roff(head)}"
    yield roff(textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False))


def _of_verb(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """A verb with its words, and its options below."""
    own = [each for each in _actions(parser) if "--help" not in each.option_strings]
    words = [each for each in own if not each.option_strings]
    options = [each for each in own if each.option_strings and "--json" not in each.option_strings]
    head = " ".join([name, *map(_shown, words)])
    told = [f"{_shown(each)}: {_help(each, parser)}" for each in words]
    yield from _entry(head, " ".join([parser.description or "", *told]))
    if options:
        yield ".RS"
        for each in options:
            yield from _entry(_shown(each), _help(each, parser))
        yield ".RE"


def _render(page: _Page) -> str:
    parser, prog = page.parser, page.parser.prog
    verbs = _verbs(parser)
    words = ["[options]"] if any(each.option_strings for each in _actions(parser)) else []
    words += ["verb"] if verbs else []
    words += [_shown(each) for each in _actions(parser) if not each.option_strings]
    book = "User commands" if page.section == 1 else "System administration"
    parts = [
        f'.TH {prog.upper()} {page.section} "" "perdition {__version__}" "{book}"',
        ".SH NAME",
        roff(f"{prog} - {page.about}"),
        ".SH SYNOPSIS",
        f".B {roff(prog)}",
        roff(" ".join(words)),
        ".SH DESCRIPTION",
        roff(textwrap.fill(parser.description or "", 100, break_on_hyphens=False)),
    ]
    if verbs:
        parts.append(".SH VERBS")
        for name, verb in verbs.items():
            parts += _of_verb(name, verb)
    parts.append(".SH OPTIONS")
    for each in _actions(parser):
        parts += _entry(_shown(each), _help(each, parser))
    heading, _, rest = (parser.epilog or "").partition(": ")
    if rest:
        parts += [f".SH {heading.upper()}", *roff_blocks(rest[:1].upper() + rest[1:])]
    elif heading:
        parts += [".SH NOTES", *roff_blocks(heading)]
    for heading, text in page.chapters.items():
        parts += [f".SH {heading}", *roff_blocks(text)]
    return "\n".join(parts) + "\n"


def generated() -> dict[str, str]:
    """Path in the source tree -> text of each page that is kept there."""
    return {
        f"share/man/man{page.section}/{page.parser.prog}.{page.section}": _render(page)
        for page in _pages()
    }


def main() -> None:
    """Write the pages below the folder given, or the current one."""
    write(generated())


if __name__ == "__main__":
    main()
