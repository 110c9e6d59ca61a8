"""From a command's name and words to a `Config`: the file's look-up, precedence, all complaints.

The command line wins over the environment (where it is asked for), that over the file, the file
over the defaults, for every option. Reload is calling `load` again. Only the configuration file is
opened, never a file that an option names.
Invariant: the outcome is a whole `Config` or a ConfigError with every problem found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from perdition.config import argv as command_line
from perdition.config import environment
from perdition.config import file as config_file
from perdition.config.checks import impossible
from perdition.config.fields import Setting
from perdition.config.options import OPTIONS, Config
from perdition.errors import ConfigError
from perdition.protocols import PROTOCOLS, protocol_of_command

_FILE_LIMIT = 1_048_576  # bytes


def load(
    argv0: str, argv: list[str], *, config_dir: str = "/etc/perdition", directory: str = ""
) -> Config:
    """Read the options of a command; ConfigError with all that is wrong.

    `argv` holds the words behind the name. Relative names of files are taken from `directory`,
    empty for the current one; a daemon that has left it says where it was started.
    With ``--help`` or ``--version`` neither file nor rules are looked at.
    """
    directory = directory or os.getcwd()
    basename = os.path.basename(argv0)
    problems: list[str] = []
    given = _read(command_line.parse(argv), problems)
    if given.get("from_environment"):
        given = _read(environment.parse(os.environ), problems) | given
    if {"ssl_passphrase_fd", "ssl_passphrase_file"} <= given.keys():
        problems.append("ssl_passphrase_fd and ssl_passphrase_file: only one of them may be given")
    path = ""
    if not (given.get("help") or given.get("version")):
        path, text = _find(given, basename, config_dir, directory, problems)
        of_file = _read(config_file.parse(path, text), problems)
        if "ssl_passphrase_fd" in given:
            of_file.pop("ssl_passphrase_file", None)
        given = of_file | given
    if problems:
        raise ConfigError(problems)
    config = _complete(given, basename, path, directory)
    if not (config.help or config.version) and (broken := impossible(config)):
        raise ConfigError(broken)
    return config


def _read(source: Iterable[Setting | str], problems: list[str]) -> dict[str, Any]:
    """Read the values of one source; a later one replaces an earlier one, or adds to it."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for setting in source:
        if isinstance(setting, str):
            problems.append(setting)
            continue
        place, option, text = setting
        try:
            value = True if text is None else option.read(text)
            if text and option.adds:
                texts[option.name] = ",".join(filter(None, (texts.get(option.name), text)))
                value = option.read(texts[option.name])
        except ValueError as error:
            problems.append(f"{place}: {error}")
        else:
            values |= dict.fromkeys((option.name, *option.sets), value)
    return values


def _find(
    given: dict[str, Any], basename: str, config_dir: str, directory: str, problems: list[str]
) -> tuple[str, str]:
    """The configuration file's name and text, both empty if there is none."""
    names = [f"{basename}.conf"] if basename != "perdition" else []
    names += [f"perdition.{protocol_of_command(basename).stem}.conf", "perdition.conf"]
    paths = [os.path.join(config_dir, name) for name in names]
    wanted = "config_file" in given
    if wanted:
        paths = [os.path.join(directory, given["config_file"])]
    for path in paths:
        try:
            with open(path, "rb") as file:
                content = file.read(_FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            if wanted:
                problems.append(f"{path}: {error.strerror}")
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
            return path, ""
        else:
            if len(content) <= _FILE_LIMIT:
                return path, content.decode("utf-8", "surrogateescape")
            problems.append(f"{path}: longer than {_FILE_LIMIT} bytes")
            return path, ""
    return "", ""


def _complete(values: dict[str, Any], basename: str, path: str, directory: str) -> Config:
    """Fill in what depends on the protocol, the command's name and the directory."""
    given = frozenset(values)
    row = protocol_of_command(basename)
    row = PROTOCOLS[values.setdefault("protocol", row.name)]
    default_port = str(row.port) if values.get("no_lookup") else row.service
    for name in ("listen_port", "outgoing_port"):
        values[name] = values.get(name) or default_port
    values.setdefault("ssl_mode", row.ssl_mode)
    values.setdefault("pid_file", f"/var/run/{basename}/{basename}.pid")
    if values.get("ssl_passphrase_file"):
        values["ssl_passphrase_fd"] = None
    for name, value in values.items():
        if OPTIONS[name].path and value:
            values[name] = os.path.join(directory, value)
    return Config(**values, basename=basename, config_path=path, given=given)
