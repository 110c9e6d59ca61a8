"""Where each option was given, and what is odd about that: repeated, outdone, ignored."""

from __future__ import annotations

import os

from perdition.check.files import content
from perdition.check.findings import NOTE, WARNING, Finding
from perdition.config import Config, argv, environment, file
from perdition.config.fields import Setting

COMMAND_LINE = "command line"


def find_places(words: list[str], config: Config) -> tuple[dict[str, str], list[Finding]]:
    """Option -> FILE:LINE, a variable's name or `COMMAND_LINE`, for each given; and what is odd."""
    places: dict[str, str] = {}
    found: list[Finding] = []
    text = content(config.config_path).decode("utf-8", "surrogateescape")
    for setting in file.parse(config.config_path, text, ignored=True):
        if isinstance(setting, str):
            continue  # changed since it was loaded
        place = setting.place.rpartition(": ")[0]
        name = setting.option.name
        if setting.option.argv_only:
            why = f"{name} has no effect in a configuration file"
            found.append(Finding(WARNING, name, why, place))
        elif name in places and not setting.option.adds:
            why = f"{name} is given again: this one holds, {_line(places[name])} does not"
            found.append(Finding(WARNING, name, why, place))
        _put(places, setting, place)
    if config.from_environment:
        for setting in environment.parse(os.environ):
            if not isinstance(setting, str):
                name = setting.option.name
                if name in places:
                    why = f"{name} has no effect here: {setting.place} outdoes it"
                    found.append(Finding(NOTE, name, why, places[name]))
                _put(places, setting, setting.place)
    said: set[str] = set()
    for setting in argv.parse(words):
        if isinstance(setting, str):
            continue
        name = setting.option.name
        if name in places and name not in said:
            why = f"{name} has no effect here: the command line outdoes it"
            found.append(Finding(NOTE, name, why, places[name]))
        said.add(name)
        _put(places, setting, COMMAND_LINE)
    return places, found


def _put(places: dict[str, str], setting: Setting, place: str) -> None:
    places |= dict.fromkeys((setting.option.name, *setting.option.sets), place)


def _line(place: str) -> str:
    return f"line {place.rpartition(':')[2]}"
