"""THE table of rules. To add one: a function in a file of this room, a row here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from perdition.check import certificates, files, options
from perdition.check.findings import Finding
from perdition.config import Config

Rule = Callable[[Config], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    options.told_at_the_start,
    options.no_way_to_a_server,
    options.passwords_in_the_log,
    options.clear_text,
    options.old_versions,
    options.weak_ciphers,
    options.servers_not_verified,
    options.clients_not_verified,
    options.users_choose_servers,
    options.no_bound,
    options.times_in_odd_order,
    options.mechanisms_that_there_are_not,
    options.without_effect,
    files.readable_by_others,
    files.writable_by_others,
)


def judge(config: Config, now: float | None = None) -> list[Finding]:
    """Apply every rule; `now` (seconds since 1970) is when certificates are looked at."""
    found = [finding for rule in RULES for finding in rule(config)]
    return found + certificates.judge(config, time.time() if now is None else now)
