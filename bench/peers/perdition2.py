"""Perdition 2.2, the C program that ours succeeds: a process for each client."""

import grp
import os
import pwd
from typing import ClassVar

from bench.peers.base import CAPABILITY, Peer, Setting

_PROGRAM = "/usr/sbin/perdition.imap4"

_CONFIGURATION = """no_daemon
no_lookup
bind_address 127.0.0.1:{port}
listen_port {port}
outgoing_server 127.0.0.1:{backend_port}
outgoing_port {backend_port}
imap_capability "{capability}"
map_library ""
pid_file ""
log_facility "{log}"
username {user}
group {group}
{tls}
"""

_TLS = """ssl_mode ssl_listen
ssl_cert_file {certificate}
ssl_key_file {key}"""


class Perdition2(Peer):
    """Debian's perdition 2.2; a fork for each client makes it some twenty times slower."""

    name = "perdition2"
    shrink = 0.1
    needs: ClassVar = {_PROGRAM: "Debian: perdition"}

    def command(self, setting: Setting) -> list[str]:
        tls = _TLS.format(certificate=setting.certificate, key=setting.key)
        path = setting.folder / "perdition.conf"
        text = _CONFIGURATION.format(
            port=setting.port,
            backend_port=setting.backend_port,
            capability=CAPABILITY,
            log=setting.folder / "log",
            user=pwd.getpwuid(os.geteuid()).pw_name,
            group=grp.getgrgid(os.getgid()).gr_name,
            tls=tls if setting.tls else "ssl_mode none",
        )
        path.write_text(text)
        return [_PROGRAM, "-f", str(path)]
