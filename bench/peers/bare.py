"""Bare Python: a fixed dialogue and nothing else; the floor of what Python can do, not a proxy."""

import sys
from pathlib import Path
from typing import ClassVar

from bench.peers.base import Peer, Setting

_PROGRAM = Path(__file__).parents[1] / "bare.py"


class Bare(Peer):
    """It knows the bench's words ahead; `bench/bare.py` says what it leaves out."""

    name = "bare"
    logs_in = False
    relays = frozenset({"tls"})  # plain bytes need not pass through a process at all
    needs: ClassVar = {sys.executable: "Python"}

    def command(self, setting: Setting) -> list[str]:
        pair = [str(setting.certificate), str(setting.key)] if setting.tls else []
        ports = [str(setting.port), str(setting.backend_port)]
        return [sys.executable, str(_PROGRAM), *ports, *pair]
