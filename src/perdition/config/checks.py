"""What must hold between options, and what is worth a word at the start.

Each rule looks at a whole `Config` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perdition.config.options import OPTIONS, Config
from perdition.config.readers import TLS_VERSIONS
from perdition.protocols import PROTOCOLS, TlsUse

_IDLE = 1800  # RFC 9051, 5.4: no shorter autologout timer; RFC 2177 clients speak every 29 minutes


def _crossed(oldest: str, newest: str) -> bool:
    return bool(newest) and TLS_VERSIONS.index(oldest) > TLS_VERSIONS.index(newest)


# What is impossible, and how to say it.
_RULES: tuple[tuple[str, Callable[[Config], bool]], ...] = (
    (
        "ssl_listen_min_proto_version is greater than ssl_listen_max_proto_version",
        lambda c: _crossed(c.ssl_listen_min_proto_version, c.ssl_listen_max_proto_version),
    ),
    (
        "ssl_outgoing_min_proto_version is greater than ssl_outgoing_max_proto_version",
        lambda c: _crossed(c.ssl_outgoing_min_proto_version, c.ssl_outgoing_max_proto_version),
    ),
    (
        "ssl_cert_file and ssl_key_file are needed: ssl_mode has TLS for clients",
        lambda c: c.ssl_mode.listen is not TlsUse.NONE and not (c.ssl_cert_file and c.ssl_key_file),
    ),
    (
        "pipeline_limit is smaller than line_limit",
        lambda c: c.pipeline_limit < c.line_limit,
    ),
)


def impossible(config: Config) -> list[str]:
    """The rules that a configuration breaks, in words."""
    return [text for text, broken in _RULES if broken(config)]


def warnings(config: Config) -> list[str]:
    """What an administrator should hear at the start; nothing that stops it."""
    return [*_without_effect(config), *_idle(config)]


def _without_effect(config: Config) -> Iterator[str]:
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        if not value or value == option.default:
            continue
        if option.obsolete:
            yield f"{name} has no effect: {option.obsolete}"
    for name in ("connection_logging", "log_passwd"):
        if getattr(config, name) != OPTIONS[name].default and not config.debug:
            yield f"{name} has no effect without debug"


def _idle(config: Config) -> Iterator[str]:
    row = PROTOCOLS[config.protocol]
    announced = str(getattr(config, row.capability)).upper().split()
    if row.idle_word in announced and 0 < config.timeout < _IDLE:
        yield (
            f"timeout {config.timeout} is under {_IDLE // 60} minutes while {row.idle_word} is "
            "announced: idle clients will be cut off"
        )
