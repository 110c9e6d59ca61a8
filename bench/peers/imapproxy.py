"""up-imapproxy: a thread for each client, and connections to the server that outlive them."""

import grp
import os
import pwd
from typing import ClassVar

from bench.peers.base import Peer, Setting

_PROGRAM = "/usr/sbin/imapproxyd"

_CONFIGURATION = """
server_hostname 127.0.0.1
server_port {backend_port}
listen_address 127.0.0.1
listen_port {port}
cache_size 3072
cache_expiration_time 300
proc_username {user}
proc_groupname {group}
stat_filename {folder}/statistics
protocol_log_filename {folder}/protocol
syslog_facility LOG_MAIL
send_tcp_keepalives no
enable_select_cache no
foreground_mode yes
force_tls no
enable_admin_commands no
"""


class Imapproxy(Peer):
    """It has no TLS for clients, and a login that it has seen before costs the server nothing."""

    name = "imapproxy"
    has_tls = False
    at_once = 4  # it listens with a queue of five
    shrink = 0.1
    needs: ClassVar = {_PROGRAM: "Debian: imapproxy"}

    def command(self, setting: Setting) -> list[str]:
        root = os.geteuid() == 0  # as whom it refuses to serve
        path = setting.folder / "imapproxy.conf"
        path.write_text(
            _CONFIGURATION.format(
                folder=setting.folder,
                port=setting.port,
                backend_port=setting.backend_port,
                user="nobody" if root else pwd.getpwuid(os.geteuid()).pw_name,
                group="nogroup" if root else grp.getgrgid(os.getgid()).gr_name,
            )
        )
        return [_PROGRAM, "-f", str(path)]
