"""``perditiondb_mysql_makedb`` and its like: make an empty popmap in a database or directory.

2.2's commands asked their questions at a terminal; these take them as options, so that they can be
scripted, and ``--print`` shows what would be done. An administrator's password is read from the
environment (``PERDITION_ADMIN_PASSWORD``), never from the command line.
Invariant: what exists is left as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable

from perdition.errors import MapError

FAILED = 255
PASSWORD = "PERDITION_ADMIN_PASSWORD"
KINDS = ("mysql", "postgresql", "odbc", "ldap")

_TABLE = """\
CREATE TABLE IF NOT EXISTS {table} (
    {user} varchar(128) NOT NULL PRIMARY KEY,
    servername varchar(255) NOT NULL,
    port varchar(8)
)"""


def main_mysql() -> None:
    """The command ``perditiondb_mysql_makedb``."""
    sys.exit(_run("mysql", _mysql, sys.argv[1:]))


def main_postgresql() -> None:
    """The command ``perditiondb_postgresql_makedb``."""
    sys.exit(_run("postgresql", _postgresql, sys.argv[1:]))


def main_odbc() -> None:
    """The command ``perditiondb_odbc_makedb``."""
    sys.exit(_run("odbc", _odbc, sys.argv[1:]))


def main_ldap() -> None:
    """The command ``perditiondb_ldap_makedb``."""
    sys.exit(_run("ldap", _ldap, sys.argv[1:]))


def _run(kind: str, make: Callable[[argparse.Namespace], None], words: list[str]) -> int:
    options = parser(kind).parse_args(words)

    def complain(text: str) -> None:
        print(f"perditiondb_{kind}_makedb: {text}", file=sys.stderr)

    names = (options.database, options.table, options.user)
    if not all(re.fullmatch(r"[\w$]+", name) for name in names):
        complain(f"letters, digits, _ and $ make a name, not all of {', '.join(names)}")
        return FAILED
    try:
        make(options)
    except ImportError as error:
        complain(f"the driver is missing: {error}")
        return FAILED
    except MapError as error:
        complain(str(error))
        return FAILED
    return 0


def parser(kind: str) -> argparse.ArgumentParser:
    """The words of one command."""
    top = argparse.ArgumentParser(
        prog=f"perditiondb_{kind}_makedb", allow_abbrev=False,
        description=f"Make an empty popmap for map_library {kind}. What exists stays.",
        epilog=f"The administrator's password is taken from the environment: {PASSWORD}.",
    )  # fmt: skip
    add = top.add_argument
    add("--print", action="store_true", dest="show", help="show what would be done, and stop")
    add("--host", default="localhost", help="server, or the folder of its socket from /")
    add("--port", type=int, default=0, help="port of the server; 0: the usual one")
    add("--admin", default="", help="administrator to connect as")
    database = "dbperdition" if kind == "postgresql" else "dbPerdition"
    add("--database", default=database, help="name of the database, or of the data source")
    add("--table", default="tblPerdition", help="name of the table")
    add("--user", default="perdition", help="user who may read it")
    add("--base", default="ou=mailbox,dc=nodomain", help="LDAP: name of the entry above the users")
    return top


def _mysql(options: argparse.Namespace) -> None:
    table = _TABLE.format(table=f"`{options.database}`.`{options.table}`", user="`user`")
    statements = [
        f"CREATE DATABASE IF NOT EXISTS `{options.database}`", table,
        f"GRANT SELECT ON `{options.database}`.`{options.table}` TO `{options.user}`",
    ]  # fmt: skip
    if _shown(options, statements):
        return
    import pymysql  # noqa: PLC0415 - each command needs its own driver

    try:
        connection = pymysql.connect(
            host=options.host, port=options.port or 3306, user=options.admin or "root",
            unix_socket=options.host if options.host.startswith("/") else None,
            password=os.environ.get(PASSWORD, ""), connect_timeout=10, autocommit=True,
        )  # fmt: skip
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT host FROM mysql.user WHERE user = %s", (options.user,))
            hosts = [str(row[0]) for row in cursor.fetchall()]
            if not hosts:
                raise MapError(f"there is no user {options.user}: make it with CREATE USER first")
            for statement in statements[:2]:
                cursor.execute(statement)
            for host in hosts:
                cursor.execute(f"{statements[2]}@`{host}`")
    except pymysql.Error as error:
        raise MapError(str(error)) from None


def _postgresql(options: argparse.Namespace) -> None:
    create = f'CREATE DATABASE "{options.database}"'
    name = f'"{options.table.lower()}"'  # as 2.2's commands and its map, which do not quote it
    table = _TABLE.format(table=name, user='"user"')
    grant = f'GRANT SELECT ON {name} TO "{options.user}"'
    if _shown(options, [create, table, grant]):
        return
    import psycopg  # noqa: PLC0415

    def connect(database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=options.host, port=options.port or None, user=options.admin or "postgres",
            password=os.environ.get(PASSWORD) or None, dbname=database, connect_timeout=10,
            autocommit=True,
        )  # fmt: skip

    try:
        with connect("postgres") as connection:
            try:
                connection.execute(create.encode())
            except psycopg.errors.DuplicateDatabase:
                pass
        with connect(options.database) as connection:
            connection.execute(table.encode())
            connection.execute(grant.encode())
    except psycopg.Error as error:
        raise MapError(str(error).strip()) from None


def _odbc(options: argparse.Namespace) -> None:
    if _shown(options, [_TABLE.format(table=options.table, user='"user"')]):
        return
    import pyodbc  # noqa: PLC0415

    from perdition.popmap.odbc import quoted_value  # noqa: PLC0415

    words = [f"DSN={options.database}"]
    if options.admin:
        password = os.environ.get(PASSWORD, "")
        words += [f"UID={quoted_value(options.admin)}", f"PWD={quoted_value(password)}"]
    try:
        connection = pyodbc.connect(";".join(words), autocommit=True, timeout=10)
        # USER is a word of SQL; in quotes its case counts, so it is what it is without them.
        quote = str(connection.getinfo(pyodbc.SQL_IDENTIFIER_QUOTE_CHAR)).strip()
        user = "USER" if connection.getinfo(pyodbc.SQL_IDENTIFIER_CASE) == 1 else "user"
        connection.execute(_TABLE.format(table=options.table, user=f"{quote}{user}{quote}"))
        connection.close()
    except pyodbc.Error as error:
        raise MapError(str(error.args[-1])) from None


def _ldap(options: argparse.Namespace) -> None:
    name, _, value = options.base.split(",")[0].partition("=")
    record = [("objectClass", b"organizationalUnit"), (name, value.encode())]
    lines = [f"dn: {options.base}", "objectClass: organizationalUnit", f"{name}: {value}"]
    if _shown(options, ["\n".join(lines)], end=""):
        return
    import ldap  # noqa: PLC0415

    if name.lower() != "ou":
        raise MapError("the base is an organisational unit: ou=NAME,...")
    url = f"ldap://{options.host}:{options.port or 389}"
    connection = ldap.initialize(url)
    try:
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 10)
        admin = options.admin or f"cn=admin,{options.base.partition(',')[2]}"
        connection.simple_bind_s(admin, os.environ.get(PASSWORD, ""))
        connection.add_s(options.base, record)
    except ldap.ALREADY_EXISTS:
        pass
    except ldap.LDAPError as error:
        told = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        raise MapError(f"{url}: {told.get('desc', type(error).__name__)}") from None
    finally:
        connection.unbind_s()


def _shown(options: argparse.Namespace, statements: list[str], end: str = ";") -> bool:
    """Print what would be done, if only that is wanted."""
    if options.show:
        for statement in statements:
            print(statement + end)
    return bool(options.show)
