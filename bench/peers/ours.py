"""Perdition 3, as installed in the virtual environment: with its default features on, or bare.

But for core_dumps, which lets an ordinary user measure a worker's memory.
"""

import grp
import os
import pwd
import sys
from pathlib import Path
from typing import ClassVar

from bench.peers.base import CAPABILITY, Peer, Setting

_BIN = Path(sys.executable).parent

_CONFIGURATION = """no_daemon
no_lookup
core_dumps
workers {workers}
bind_address 127.0.0.1
listen_port {port}
outgoing_server 127.0.0.1
outgoing_port {backend_port}
imap_capability "{capability}"
pid_file ""
log_facility {log}
username {user}
group {group}
{popmap}
{tls}
"""

_TLS = """ssl_mode ssl_listen
ssl_cert_file {certificate}
ssl_key_file {key}"""

_POPMAP = """map_library popmap
map_library_opt {}"""


class Ours(Peer):
    """The proxy of this repository."""

    name = "ours"
    needs: ClassVar = {str(_BIN / "perdition.imap4"): "make run installs it"}
    commands: ClassVar[Path] = _BIN
    more = ""  # lines of the configuration

    def command(self, setting: Setting) -> list[str]:
        tls = _TLS.format(certificate=setting.certificate, key=setting.key)
        path = setting.folder / "perdition.conf"
        text = _CONFIGURATION.format(
            workers=setting.workers,
            popmap=_POPMAP.format(setting.popmap) if setting.popmap else "",
            port=setting.port,
            backend_port=setting.backend_port,
            capability=CAPABILITY,
            log=setting.folder / "log",
            user=pwd.getpwuid(os.geteuid()).pw_name,
            group=grp.getgrgid(os.getgid()).gr_name,
            tls=tls if setting.tls else "ssl_mode none",
        )
        path.write_text(text + self.more)
        name = "perdition.imap4s" if setting.tls else "perdition.imap4"
        return [str(self.commands / name), "-f", str(path)]


_OFF = """\
quiet
address_connection_limit 0
failure_delay 0
authenticate_timeout 0
timeout 0
connect_relog 0
server_retry 0
forward_client never
"""


class Stripped(Ours):
    """Ours without what an option can turn off: logs, limits, time-outs, the client's address.

    It is no product, but shows what the features that are on by default cost a login.
    """

    name = "stripped"
    logs_in = False
    only = "login-"
    more = _OFF


class Dialogue(Ours):
    """Ours with an option by which no login is a usual one: each has its dialogue.

    To change names, as the option says, costs a little by itself.
    """

    name = "dialogue"
    logs_in = False
    only = "login-"
    more = "lower_case all\n"


class Wrapped(Ours):
    """Ours, started by a module of the bench that looks into its worker.

    The module is called with `words`, the path of a report that it may write, and the command.
    """

    name = "wrapped"

    def __init__(self, module: str, *words: str) -> None:
        self._start = [sys.executable, "-m", module, *words]

    def command(self, setting: Setting) -> list[str]:
        program, *rest = super().command(setting)
        return [*self._start, str(report_of(setting.folder)), Path(program).name, *rest]


def report_of(folder: Path) -> Path:
    """Says where a wrapped peer in that folder writes."""
    return folder / "report"


def earlier(commands: Path) -> Ours:
    """Gives another version of ours as a peer, whose commands are in that folder."""

    class Before(Ours):
        name = "before"
        needs: ClassVar = {str(commands / "perdition.imap4"): "make run there"}

    Before.commands = commands
    return Before()
