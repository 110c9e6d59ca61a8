"""OpenLDAP's slapd with the schema that we ship, see `battery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import ldap
import ldap.dn
import ldap.modlist
import trustme
from tests.conftest import ROOT
from tests.popmap.battery import ENTRIES, Entries, Filled, columns
from tests.popmap.services import PASSWORD, Service, program

BASE = "ou=mailbox,dc=nodomain"
CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include {schema}
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
database mdb
maxsize 16777216
suffix "dc=nodomain"
directory {folder}/data
rootdn "cn=admin,dc=nodomain"
rootpw {password}
"""
TLS = """\
TLSCertificateFile {folder}/cert.pem
TLSCertificateKeyFile {folder}/key.pem
"""


@cache
def server() -> Service:
    """A server that keeps people of the class perditionPopmap."""
    service = Service("slapd", "openldap")
    configuration = service.folder / "slapd.conf"
    schema = service.folder / "perdition.schema"
    schema.write_text((ROOT / "share/ldap/perdition.schema").read_text())
    files = {"folder": service.folder, "schema": schema, "password": PASSWORD}
    configuration.write_text((TLS + CONFIGURATION).format(**files))
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(service.folder / "ca.pem")
    certificate.private_key_pem.write_to_path(service.folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(service.folder / "cert.pem")
    for file in (schema, configuration, service.folder / "key.pem"):
        file.chmod(0o644)
    service.run("mkdir", service.folder / "data")
    service.command = (
        program("slapd", "/usr/sbin"), "-f", configuration, "-d", "0",
        "-h", f"ldap://127.0.0.1:{service.port} ldaps://127.0.0.1:{service.port + 1}",
    )  # fmt: skip
    service.start()
    connection = admin(service)
    connection.add_s("dc=nodomain", [("objectClass", [b"dcObject", b"organization"]), ("o", b"x")])
    connection.add_s(BASE, [("objectClass", b"organizationalUnit")])
    connection.unbind_s()
    return service


def admin(service: Service) -> Any:
    connection = ldap.initialize(f"ldap://127.0.0.1:{service.port}")
    connection.simple_bind_s("cn=admin,dc=nodomain", PASSWORD)
    return connection


@contextmanager
def filled(_: Path) -> Iterator[Filled]:
    """Entries below BASE; the first host named is none."""
    service = server()
    service.start()

    def fill(entries: Entries) -> None:
        connection = admin(service)
        with suppress(ldap.NO_SUCH_OBJECT):
            for dn, _ in connection.search_s(BASE, ldap.SCOPE_ONELEVEL, attrlist=["1.1"]):
                connection.delete_s(dn)
        for number, (key, host, port, user) in enumerate(columns(entries)):
            record = {"uid": key, "mailhost": host, "port": port, "username": user}
            values: dict[str, Any] = {k: v.encode() for k, v in record.items() if v}
            # The name of an entry is its number: a uid is matched whatever the case.
            values |= {"objectClass": b"perditionPopmap", "uid": [key.encode(), b"%d" % number]}
            connection.add_s(f"uid={number},{BASE}", ldap.modlist.addModlist(values))
        connection.unbind_s()

    fill(ENTRIES)
    bind = f"bindname=cn=admin%2cdc=nodomain,x-bindpw={PASSWORD}"
    search = f"{BASE}?username,mailhost,port?one?(uid:caseExactMatch:=%s)?{bind}"
    hosts = f"127.0.0.9:{service.port} 127.0.0.1:{service.port}"
    blanks = frozenset((b"jo ", b" jo"))  # which no string of LDAP has (RFC 4518, 2.6.1)
    yield Filled(
        f"ldap://{hosts}/{search}", fill, service.stop, service.start, service.pause,
        service.resume, same=blanks,
    )  # fmt: skip
    service.start()
