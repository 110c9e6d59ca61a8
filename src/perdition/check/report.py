"""What ``--check_config`` prints, and its exit status.

error: /etc/perdition/perdition.conf:7: ssl_cert_file: the certificate in … expired on …
perdition: /etc/perdition/perdition.conf: 1 error, no warnings, no notes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from perdition.check.findings import ERROR, NOTE, WARNING, Finding
from perdition.config import argv as command_line
from perdition.log import ESCAPES

GOOD, BAD = 0, 1

_LEVELS = (ERROR, WARNING, NOTE)


def is_asked_for(words: list[str]) -> bool:
    """Whether a command line that may be wrong asks for a check."""
    found = (each for each in command_line.parse(words) if not isinstance(each, str))
    return any(setting.option.name == "check_config" for setting in found)


def report(
    findings: Iterable[Finding], places: Mapping[str, str], heading: str, *, strict: bool = False
) -> int:
    """Print what was found, the worst first; return the exit status."""
    found = sorted(dict.fromkeys(findings), key=lambda each: _LEVELS.index(each.level))
    for each in found:
        place = each.place or places.get(each.option, "")
        line = f"{each.level}: {f'{place}: ' if place else ''}{each.text}"
        print(line.translate(ESCAPES).encode("utf-8", "backslashreplace").decode())
    print(f"{heading}: {', '.join(_counts(found))}")
    levels = {each.level for each in found}
    return BAD if ERROR in levels or (strict and WARNING in levels) else GOOD


def _counts(found: list[Finding]) -> Iterator[str]:
    for level in _LEVELS:
        count = [each.level for each in found].count(level)
        yield f"{count or 'no'} {level}{'' if count == 1 else 's'}"
