"""Dovecot's login proxy: one login process for all clients, a static passdb that sends all on."""

import os
import pwd
from typing import ClassVar

from bench.peers.base import CAPABILITY, Peer, Setting

_PROGRAM = "/usr/sbin/dovecot"
_PROTOCOL = "/usr/lib/dovecot/imap-login"

_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_max_userip_connections = 0
imap_capability = {capability}
default_internal_user = {internal}
default_internal_group = {internal}
default_login_user = {login}
default_vsz_limit = 0
first_valid_uid = 1
{tls}
passdb {{
  driver = static
  args = proxy=y host=127.0.0.1 port={backend_port} nopassword=y
}}
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 1
  process_limit = 1
  client_limit = 9900
  inet_listener imap {{
    port = {plain_port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  client_limit = 9900
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  client_limit = 9900
}}
"""

_TLS = """ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
ssl_min_protocol = TLSv1.3"""


class Dovecot(Peer):
    """All its processes count: master, log, anvil, stats, auth and the login process."""

    name = "dovecot"
    needs: ClassVar = {_PROGRAM: "Debian: dovecot-core", _PROTOCOL: "Debian: dovecot-imapd"}

    def command(self, setting: Setting) -> list[str]:
        me = pwd.getpwuid(os.geteuid()).pw_name
        tls = _TLS.format(certificate=setting.certificate, key=setting.key)
        path = setting.folder / "dovecot.conf"
        path.write_text(
            _CONFIGURATION.format(
                folder=setting.folder,
                capability=CAPABILITY,
                internal="dovecot" if os.geteuid() == 0 else me,
                login="dovenull" if os.geteuid() == 0 else me,
                backend_port=setting.backend_port,
                plain_port=0 if setting.tls else setting.port,
                tls_port=setting.port if setting.tls else 0,
                tls=tls if setting.tls else "ssl = no",
            )
        )
        return [_PROGRAM, "-F", "-c", str(path)]
