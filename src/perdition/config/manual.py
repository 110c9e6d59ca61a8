"""What is written about the options: help, man page, docs, sample file, start-up dump.

Everything is rendered from the options' fields; ``python -m perdition.config.manual [ROOT]``
rewrites the files that are kept in the source tree.
Invariant: a secret option's value is shown nowhere.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping

from perdition import __version__
from perdition.config.fields import Option
from perdition.config.file import quote
from perdition.config.options import OPTIONS, SECTIONS, Config
from perdition.config.readers import show
from perdition.protocols import COMMANDS, DEFAULT_PROTOCOL, PROTOCOLS

_TITLE = "IMAP4, POP3 and ManageSieve proxy"
_TLS_PREFIX = "ssl_"
_UNDUMPED = ("capability", "help", "version")
_BARE = re.compile(r"[^\s#\\\"']+")


def dump(config: Config) -> tuple[str, str]:
    """All options as 2.2 logs them at the start: TLS apart, secrets masked."""
    lines: tuple[list[str], list[str]] = ([], [])
    for name in sorted(OPTIONS, key=lambda name: (name != "ssl_mode", name)):
        if name not in _UNDUMPED:
            lines[name.startswith(_TLS_PREFIX)].append(f"{name}={_dumped(config, name)}")
    return ", ".join(lines[0]), ", ".join(lines[1])


def _dumped(config: Config, name: str) -> str:
    value = getattr(config, name)
    if OPTIONS[name].secret and value:
        return '"***"'
    return show(value) if isinstance(value, bool | int) else f'"{show(value)}"'


def _default(option: Option) -> str:
    return option.initial or f'"{show(option.default)}"'


def _names(option: Option) -> str:
    letter = f"-{option.short}|" if option.short else ""
    return f"{letter}--{option.name}" + (f" {option.meta}" if option.meta else "")


def _notes(option: Option) -> Iterator[str]:
    """What is to be said of an option behind its help."""
    if option.since:
        yield f"New in {option.since}."
    if option.alias:
        yield f"Also called {option.alias}."
    if option.argv_only:
        yield "Ignored in a configuration file."
    if option.obsolete:
        yield f"No effect: {option.obsolete}."


def _said(option: Option) -> str:
    return " ".join((option.help, *_notes(option)))


def help_text() -> str:
    """The text of ``--help``."""
    lines = [f"perdition version {__version__}", _TITLE, "", "Usage: perdition [options]", ""]
    for heading, options in SECTIONS.items():
        lines += ["", f"{heading}:"]
        for option in options:
            lines.append(f" {_names(option)}:")
            lines += _wrapped(_said(option), "    ")
            if not option.is_flag:
                lines += _wrapped(f"(default {_default(option)})", "    ")
    lines += ["", "Notes:", *_wrapped(_NOTES, "    "), ""]
    return "\n".join(lines)


_NOTES = (
    "Options come from the command line and from one file in /etc/perdition; the command line "
    "wins. In the file the long names or the letters stand without dashes. See perdition(8)."
)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, 78, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def roff(text: str) -> str:
    """Text that means itself in a manual page."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def man_page() -> str:
    """perdition(8)."""
    parts = [f'.TH PERDITION 8 "" "perdition {__version__}" "System administration"']
    parts += [".SH NAME", roff(f"perdition - {_TITLE}"), ".SH SYNOPSIS"]
    for command in ("perdition", *COMMANDS):
        parts += [f".B {roff(command)}", "[options]", ".br"]
    parts += [".SH DESCRIPTION", roff(_DESCRIPTION), "", *_command_table()]
    for heading, options in SECTIONS.items():
        parts.append(f".SH {heading.upper()}")
        for option in options:
            parts += [".TP", f".B {roff(_names(option))}", roff(_said(option))]
            if not option.is_flag:
                parts += [".br", roff(f"Default: {_default(option)}")]
    for heading, text in _CHAPTERS.items():
        parts += [f".SH {heading}", *roff_blocks(text)]
    return "\n".join(parts) + "\n"


def roff_blocks(text: str) -> Iterator[str]:
    """Paragraphs; those that are indented stand as they are."""
    for block in textwrap.dedent(text).strip("\n").split("\n\n"):
        if block.startswith("    "):
            yield f".PP\n.nf\n{roff(block)}\n.fi"
        else:
            yield f".PP\n{roff(block)}"


def _command_table() -> Iterator[str]:
    commands = {"any other": DEFAULT_PROTOCOL} | COMMANDS
    for command, name in sorted(commands.items(), key=lambda item: item[1]):
        row = PROTOCOLS[name]
        yield f".TP\n.B {roff(command)}\n{row.name}, port {row.service} ({row.port})"


_DESCRIPTION = """\
perdition takes the logins of mail clients, finds the server of each user, logs in there, and from
then on passes bytes between the two. It can speak TLS with both. The name by which it is called
says which protocol it speaks, unless the option protocol does:"""

_CHAPTERS = {
    "CONFIGURATION FILE": r"""
Exactly one file is read: the one that config_file names, or the first that exists of
/etc/perdition/NAME.conf (NAME is that of the command; not for perdition itself),
/etc/perdition/perdition.PROTOCOL.conf (the protocol that belongs to the command's name, in lower
case) and /etc/perdition/perdition.conf.

Each line holds an option's long name or its letter, and behind blanks or = its value. Everything
up to the end of the line is one value; blanks at its end do not count. A # begins a comment. In
double quotes blanks and # are plain; in single quotes everything is. A backslash makes the next
character plain, except in single quotes; at the end of a line it joins the next line, in a comment
too. A flag stands alone, or with yes, no, on, off, true or false.

    outgoing_server 192.0.2.10
    outgoing_port 143
    imap_capability "IMAP4rev1 ID ENABLE IDLE LITERAL+"
    query_key '\u,\D\d'
    no_lookup

A later line outdoes an earlier one, except that add_domain, strip_domain, lower_case and ssl_mode
add up. The command line outdoes the file. An error anywhere keeps perdition from starting; all
errors are shown, each with its file and line.
""",
    "SIGNALS": """
SIGHUP makes perdition read its configuration, keys and logs anew; sessions go on. If the new
configuration can't be used, or check_config would find an error in it that was not there before,
the old one stays in force and the log says why. SIGTERM and SIGINT end it; see shutdown_timeout.
""",
    "CHECKING A CONFIGURATION": """
With check_config perdition says what is wrong, risky or odd in what it would read, one line each:
error, warning or note, then the file and line or that it is the command line, then the matter. An
error means that it would not start or that nobody could log in. With probe it connects to the
servers in outgoing_server and to the popmap's service, without a login. perdition-service check
does so for all daemons that /etc/default/perdition chooses.

    perdition.imap4s --check-config --probe
""",
    "EXIT STATUS": """
0 when perdition has come up or was told to end, anything else when it has not come up. With
check_config 0 when there is no error, or with strict no warning either, else 1.
""",
    "FILES": """
/etc/perdition/perdition.conf, /etc/default/perdition, /etc/pam.d/perdition
""",
    "SEE ALSO": """
perditionctl(1), perdition-service(8), makegdbm(1), makebdb(1), ciphers(1), services(5), syslog(3)
""",
}


def options_page() -> str:
    """docs/options.md."""
    lines = ["# Options", "", "Generated from the option table; do not edit.", "", _NOTES]
    for heading, options in SECTIONS.items():
        lines += ["", f"## {heading}", ""]
        lines += ["| option | value | default | meaning |", "|---|---|---|---|"]
        for option in options:
            letter = f" (`{option.short}`)" if option.short else ""
            cells = (
                f"`{option.name}`{letter}",
                _code(option.meta) or "flag",
                "off" if option.is_flag else option.initial or _code(show(option.default)),
                _markdown(_said(option)),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*<])", r"\\\1", text)


def sample() -> str:
    """share/etc/perdition/perdition.conf: every option, switched off."""
    lines = textwrap.wrap(_SAMPLE, 78, initial_indent="# ", subsequent_indent="# ")
    for heading, options in SECTIONS.items():
        lines += ["", "#" * 78, f"# {heading}", "#" * 78]
        for option in options:
            if option.argv_only or option.obsolete or option.sets:
                continue
            letter = f", {option.short}" if option.short else ""
            lines += ["", f"# {option.name}{letter}{' ' if option.meta else ''}{option.meta}"]
            lines += _wrapped(_said(option), "#   ")
            if not option.is_flag:
                lines += _wrapped(f"Default: {_default(option)}", "#   ")
            lines.append(f"#{option.name}{_given(option)}")
    return "\n".join(lines) + "\n"


_SAMPLE = (
    "The options of perdition(8), each with an example; as it stands this file sets none. To set "
    "one, take the # away in front of its name. A file perdition.PROTOCOL.conf or NAME.conf beside "
    "this one, for the protocol or the name of a command, is read instead of this one."
)


def _given(option: Option) -> str:
    if option.is_flag:
        return ""
    text = option.example or show(option.default)
    return f" {text if _BARE.fullmatch(text) else quote(text)}"


def generated() -> dict[str, str]:
    """Path in the source tree -> text of each file that is kept there."""
    return {
        "docs/options.md": options_page(),
        "share/etc/perdition/perdition.conf": sample(),
        "share/man/man8/perdition.8": man_page(),
        **{f"share/man/man8/{name}.8": ".so man8/perdition.8\n" for name in COMMANDS},
    }


def main() -> None:
    """Write the generated files below the folder given, or the current one."""
    write(generated())


def write(files: Mapping[str, str]) -> None:
    """Write files below the folder that is the command's only word, or the current one."""
    root = sys.argv[1] if len(sys.argv) > 1 else "."
    for path, text in files.items():
        target = os.path.join(root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
