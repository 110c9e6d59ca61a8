"""Options from the environment, where --from_environment asks for them: PERDITION_TIMEOUT=30.

For containers, whose settings are given so. A name is PERDITION_ and an option's long name in
capitals; flags are yes or no. Refused are names that are no option's, but not those that
Kubernetes sets for a service called perdition, such as PERDITION_PORT_993_TCP.
No value is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from perdition.config.fields import Setting
from perdition.config.options import LONG_NAMES, unknown

PREFIX = "PERDITION_"
_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?")


def parse(environment: Mapping[str, str]) -> Iterator[Setting | str]:
    """What the variables set, and what is wrong with them, by name."""
    for name in sorted(environment):
        rest = name.removeprefix(PREFIX)
        if rest == name or _KUBERNETES.fullmatch(rest):
            continue
        option = LONG_NAMES.get(rest.lower()) if rest == rest.upper() else None
        if option is None:
            yield f"{name}: {unknown(rest)}"
        else:
            yield Setting(name, option, environment[name])
