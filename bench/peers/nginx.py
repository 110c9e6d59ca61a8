"""nginx as a mail proxy, its auth_http answered by itself; the yardstick."""

import os
from typing import ClassVar

from bench.peers.base import CAPABILITY, Peer, Setting, free_port

_PROGRAM = "/usr/sbin/nginx"
_MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"

_CONFIGURATION = """
load_module {module};
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log {folder}/error.log error;
events {{ worker_connections 24000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{auth_port};
        location / {{
            add_header Auth-Status OK;
            add_header Auth-Server 127.0.0.1;
            add_header Auth-Port {backend_port};
            return 204;
        }}
    }}
}}
mail {{
    auth_http 127.0.0.1:{auth_port}/;
    proxy_pass_error_message on;
    imap_capabilities {capabilities};
    server {{
        listen 127.0.0.1:{port}{ssl};
        protocol imap;
        {tls}
    }}
}}
"""

_TLS = """ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;"""


class Nginx(Peer):
    """nginx 1.22 speaks TLS 1.2 to mail clients unless told otherwise: it is told TLS 1.3.

    It gets more connections than there can be descriptors, because it drops waiting ones, its own
    for `auth_http` among them, when a sixteenth of its number is left.
    """

    name = "nginx"
    needs: ClassVar = {_PROGRAM: "Debian: nginx-light", _MODULE: "Debian: libnginx-mod-mail"}

    def command(self, setting: Setting) -> list[str]:
        tls = _TLS.format(certificate=setting.certificate, key=setting.key) if setting.tls else ""
        text = _CONFIGURATION.format(
            module=_MODULE,
            user="user root;" if os.geteuid() == 0 else "",
            folder=setting.folder,
            auth_port=free_port(),
            backend_port=setting.backend_port,
            capabilities=" ".join(f'"{word}"' for word in CAPABILITY.split()),
            port=setting.port,
            ssl=" ssl" if setting.tls else "",
            tls=tls,
        )
        path = setting.folder / "nginx.conf"
        path.write_text(text)
        return [_PROGRAM, "-p", str(setting.folder), "-c", str(path), "-e", "stderr"]
