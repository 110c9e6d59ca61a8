"""A Dovecot of our own on loopback ports, its mail in a temporary folder.

IMAP, POP3 and ManageSieve in clear text; with certificates STARTTLS there, and IMAPS and POP3S.
It believes clients from `trusted` networks who they say they speak for.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from tests.servers.ports import end, free_port, listens, wait_for

_CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap pop3 {sieve}
listen = 127.0.0.1
{tls}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
auth_cache_size = 1M
mail_location = maildir:{folder}/mail/%u
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 1
first_valid_gid = 1
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
haproxy_trusted_networks = 127.0.0.0/8
login_trusted_networks = {trusted}
mail_max_userip_connections = 0
default_client_limit = 6000
default_process_limit = 1000
default_vsz_limit = 0
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = home={folder}/mail/%u allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  chroot =
  service_count = 0
  client_limit = 6000
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imap_haproxy {{
    port = {haproxy}
    haproxy = yes
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  service_count = 0
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
{sieve_service}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


_TLS = "ssl = yes\nssl_cert = <{0}/cert.pem\nssl_key = <{0}/key.pem"
_SIEVE = Path("/usr/lib/dovecot/managesieve-login")
_SIEVE_SERVICE = """\
service managesieve-login {{
  chroot =
  service_count = 0
  inet_listener sieve {{
    port = {0}
  }}
}}"""


class Dovecot:
    """A running server; `users` are its names and passwords. A context that ends with it."""

    def __init__(
        self,
        program: str,
        folder: Path,
        users: dict[str, str],
        certificates: Path | None = None,
        trusted: str = "",
    ) -> None:
        self.folder = folder
        self.users = users
        ports = [free_port() for _ in range(6)]
        self.port, self.pop3, self.sieve, self.imaps, self.pop3s, self.haproxy = ports
        folder.mkdir()
        for name in ("run", "state", "mail"):
            (folder / name).mkdir()
        (folder / "users").write_text(
            "".join(f"{name}:{{PLAIN}}{word}\n" for name, word in users.items())
        )
        me = pwd.getpwuid(os.getuid())
        mail = me
        if me.pw_uid == 0:  # Dovecot delivers to no root
            mail = pwd.getpwnam("nobody")
            os.chown(folder / "mail", mail.pw_uid, mail.pw_gid)
        configuration = folder / "dovecot.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                haproxy=self.haproxy,
                trusted=trusted,
                pop3=self.pop3,
                imaps=self.imaps if certificates else 0,
                pop3s=self.pop3s if certificates else 0,
                tls=_TLS.format(certificates) if certificates else "ssl = no",
                sieve="sieve" if _SIEVE.exists() else "",
                sieve_service=_SIEVE_SERVICE.format(self.sieve) if _SIEVE.exists() else "",
                uid=mail.pw_uid,
                gid=mail.pw_gid,
                internal="dovecot" if me.pw_uid == 0 else me.pw_name,
                internal_group="dovecot" if me.pw_uid == 0 else me.pw_name,
                login="dovenull" if me.pw_uid == 0 else me.pw_name,
            )
        )
        self.process = subprocess.Popen([program, "-F", "-c", str(configuration)])

    def __enter__(self) -> Dovecot:
        wait_for(lambda: self.process.poll() is not None or listens(self.port), "Dovecot is silent")
        assert self.process.poll() is None, (self.folder / "dovecot.log").read_text()
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
