"""NIS, by the command ypmatch(1): the C library's own client is no longer part of it.

The name of the map is taken as it is (``-t``), not as a nickname, and no key for an option. A key
with a blank or a control character has no route: no NIS map holds one.
"""

from __future__ import annotations

import re
import subprocess

from perdition.errors import MapError
from perdition.popmap.base import KEY_LIMIT, Popmap, Query, route_of
from perdition.route import Route

DEFAULT = "user_mail_server"
TIMEOUT = 5  # seconds
ANSWER_LIMIT = 65_536  # bytes
_KEY = re.compile(rb"[^\s\x00-\x1f\x7f]+")
_MISSING = b"no such key"


class Map(Popmap):
    """``map_library_opt``: the map's name."""

    waits = True
    COMMAND = "ypmatch"

    def __init__(self, option: str) -> None:
        self._name = option or DEFAULT
        if not re.fullmatch(r"[\w.][\w.-]*", self._name):
            raise MapError("not the name of a NIS map")

    def lookup(self, query: Query) -> Route | None:
        if len(query.key) > KEY_LIMIT or not _KEY.fullmatch(query.key):
            return None
        try:
            done = subprocess.run(
                [self.COMMAND, "-t", "--", query.key, self._name],
                capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False,
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MapError(f"ypmatch: no answer within {TIMEOUT} s") from None
        except OSError as error:
            raise MapError(f"ypmatch (Debian: yp-tools): {error.strerror}") from None
        if done.returncode == 0:
            if not done.stdout.strip():
                raise MapError("ypmatch: an empty answer")
            return route_of(done.stdout[:ANSWER_LIMIT].split(b"\n", 1)[0].strip(), query.delimiter)
        said = done.stderr.strip()
        if _MISSING in said.lower():
            return None
        raise MapError(f"ypmatch: {said[:200].decode('utf-8', 'replace')}")
