"""HAProxy in TCP mode: TLS and bytes, and nothing of mail; the floor, not a login proxy."""

from typing import ClassVar

from bench.peers.base import Peer, Setting

_PROGRAM = "/usr/sbin/haproxy"

_CONFIGURATION = """
global
    nbthread 1
    maxconn 9900
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 127.0.0.1:{port}{tls}
    default_backend servers
backend servers
    server one 127.0.0.1:{backend_port}
"""


class Haproxy(Peer):
    """It passes the login on unread: the server greets and answers."""

    name = "haproxy"
    logs_in = False
    needs: ClassVar = {_PROGRAM: "Debian: haproxy"}

    def command(self, setting: Setting) -> list[str]:
        pair = setting.folder / "pair.pem"
        pair.write_bytes(setting.certificate.read_bytes() + setting.key.read_bytes())
        path = setting.folder / "haproxy.cfg"
        path.write_text(
            _CONFIGURATION.format(
                port=setting.port,
                backend_port=setting.backend_port,
                tls=f" ssl crt {pair}" if setting.tls else "",
            )
        )
        return [_PROGRAM, "-db", "-f", str(path)]
