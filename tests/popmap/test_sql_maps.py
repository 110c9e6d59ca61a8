"""What SQL and LDAP maps do beyond the battery: options, 2.2's own query, servers that hang."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.popmap.battery import ENTRIES, Filled, query
from tests.popmap.services import PASSWORD, Service, program
from tests.popmap.test_contract import driver

from perdition.errors import MapError
from perdition.popmap import registry
from perdition.popmap.base import route_of
from perdition.route import Route

KINDS = ("ldap", "mysql", "odbc", "postgresql")
JO = route_of(b"mail1.example")
PORT = route_of(b"mail3.example:imap")


@pytest.fixture
def filled(kind: str, tmp_path: Path) -> Iterator[Filled]:
    driver(kind)
    with import_module(f"tests.popmap.{kind}").filled(tmp_path) as real:
        yield real


def service_of(kind: str) -> Service:
    service = import_module(f"tests.popmap.{kind}").server()
    assert isinstance(service, Service)
    return service


def own(option: str) -> str:
    """The option of a `Filled` without its query."""
    return option.partition(" SELECT")[0]


@pytest.mark.parametrize("kind", ["mysql", "postgresql", "odbc"])
def test_the_query_of_2_2(kind: str, filled: Filled) -> None:
    """The option's fields alone, with columns left out, named, and without a port."""
    option = own(filled.option).rstrip(":")
    option += "::" if kind == "odbc" else ""  # a user and a password that are empty
    for columns, route in (
        ("", PORT),
        (":servername:user:port", PORT),
        (":servername:user:", route_of(b"mail3.example")),
    ):
        popmap = registry.make(kind, option + columns)
        assert popmap.lookup(query(b"port")) == route, columns
        assert popmap.lookup(query(b"' OR ''='")) is None
        popmap.close()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_name_in_quotes_is_taken_as_it_stands(kind: str, filled: Filled) -> None:
    option = own(filled.option)
    popmap = registry.make(kind, option.replace("tbl", "TBL"))
    assert popmap.lookup(query(b"port")) == PORT
    popmap.close()
    with pytest.raises(MapError, match="TBLPerdition"):
        registry.make(kind, option.replace("tblPerdition", '"TBLPerdition"')).lookup(query(b"jo"))


@pytest.mark.parametrize("kind", ["mysql", "postgresql", "odbc"])
def test_a_query_takes_the_key_twice_and_has_its_own_percent_signs(
    kind: str, filled: Filled
) -> None:
    told = "SELECT servername FROM tblPerdition WHERE servername LIKE 'mail%' AND "
    column = '"user"' if kind == "postgresql" else "user"
    popmap = registry.make(kind, f"{own(filled.option)} {told}({column} = :key OR :key = 'an')")
    assert popmap.lookup(query(b"jo")) == JO
    assert popmap.lookup(query(b"%")) is None
    assert popmap.lookup(query(b"an")) is not None
    popmap.close()


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_hosts_are_tried_in_turn(kind: str, filled: Filled) -> None:
    rest = filled.option.partition(":")[2]
    for row in ("127.0.0.9,127.0.0.1", "/nonexistent,127.0.0.1", "127.0.0.1,127.0.0.9"):
        popmap = registry.make(kind, f"{row}:{rest}")
        assert popmap.lookup(query(b"jo")) == JO, row
        popmap.close()
    with pytest.raises(MapError):
        registry.make(kind, f"127.0.0.8,127.0.0.9:{rest}").lookup(query(b"jo"))


@pytest.mark.parametrize("kind", ["mysql"])
def test_localhost_is_the_socket(
    kind: str, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perdition.popmap import mysql  # noqa: PLC0415 - needs the driver

    monkeypatch.setattr(mysql, "SOCKETS", (f"{service_of(kind).folder}/socket",))
    rest = own(filled.option).split(":", 2)[2].replace(f":perdition:{PASSWORD}", ":root:")
    for port in ("", "0", "3306"):
        popmap = registry.make(kind, f"localhost:{port}:{rest}")
        assert popmap.lookup(query(b"port")) == PORT, port
        popmap.close()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_no_port_is_the_usual_one_of_the_library(
    kind: str, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5432, unless libpq's own variable says another, as it does here."""
    monkeypatch.setenv("PGPORT", str(service_of(kind).port))
    host, _, rest = own(filled.option).split(":", 2)
    for port in ("", "0"):
        popmap = registry.make(kind, f"{host}:{port}:{rest}")
        assert popmap.lookup(query(b"port")) == PORT, port
        popmap.close()


@pytest.mark.parametrize("kind", ["odbc"])
@pytest.mark.parametrize("value", ["a;b", "a}b", "{a", "a=b c", "a@b", "ab"])
def test_values_of_odbc_that_hold_its_own_characters(kind: str, value: str) -> None:
    driver(kind)
    from perdition.popmap.odbc import quoted_value  # noqa: PLC0415 - needs the driver

    quoted = quoted_value(value)
    assert quoted in (value, "{" + value.replace("}", "}}") + "}")
    assert (quoted == value) == value.isalnum()


@pytest.mark.parametrize("kind", ["ldap"])
def test_an_entry_that_has_a_port_alone_has_no_server(kind: str, filled: Filled) -> None:
    filled.fill({**ENTRIES, b"nil": b":7"})
    popmap = registry.make(kind, filled.option)
    assert popmap.lookup(query(b"nil")) == Route(())
    popmap.close()


@pytest.mark.parametrize("kind", ["ldap"])
def test_of_many_entries_the_first_counts_and_few_are_read(kind: str, filled: Filled) -> None:
    filled.fill({b"user%d" % n: b"mail%d.example" % n for n in range(60)})
    every = filled.option.replace("(uid:caseExactMatch:=%s)", "(|(uid=%s)(uid=user*))")
    popmap = registry.make(kind, every)
    for _ in range(3):  # what is left of one answer is none to the next question
        route = popmap.lookup(query(b"nobody"))
        assert route is not None
        assert route.servers[0].host.startswith("mail")
    popmap.close()
    one = registry.make(kind, filled.option)
    assert one.lookup(query(b"user7")) == route_of(b"mail7.example")
    one.close()


@pytest.mark.parametrize("kind", ["ldap", "mysql", "postgresql"])
def test_a_server_that_was_restarted_is_no_error(kind: str, filled: Filled) -> None:
    assert filled.stop is not None and filled.start is not None
    popmap = registry.make(kind, filled.option)
    assert popmap.lookup(query(b"jo")) == JO
    for _ in range(2):
        filled.stop()
        filled.start()
        assert popmap.lookup(query(b"port")) == PORT
    popmap.close()


@pytest.mark.parametrize("kind", ["ldap", "mysql", "postgresql"])
def test_a_server_that_hangs_holds_no_thread(
    kind: str, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"perdition.popmap.{kind}.TIMEOUT", 2)
    service = service_of(kind)
    popmap = registry.make(kind, filled.option)
    assert popmap.lookup(query(b"jo")) == JO
    service.pause()
    try:
        for _ in ("with a connection that was kept", "with none"):
            started = time.monotonic()
            with pytest.raises(MapError) as caught:
                popmap.lookup(query(b"port"))
            assert time.monotonic() - started < 7
            assert PASSWORD not in str(caught.value)
    finally:
        service.pause(signal.SIGCONT)
    assert popmap.lookup(query(b"port")) == PORT
    popmap.close()


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_need_no_option(kind: str) -> None:
    driver(kind)
    registry.make(kind, "").close()


@pytest.mark.parametrize("kind", ["mysql", "postgresql", "odbc"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("h:x:db", "not a port"),
        ("h::db:a;b", "not a name"),
        ('h::db:a"b', "not a name"),
        ("h::db:t:u:sesame:a b", "not a name"),
        ("h::db:t:u:sesame:", "not a name"),
        ("h::db:t:u:sesame:s:k:p:more", "more than 9 fields"),
        ("h::db:t:u:sesame SELECT a FROM t", "does not ask for :key"),
        ("h::db:t:u:sesame SELECT a::keyword FROM t", "does not ask for :key"),
    ],
)
def test_options_that_say_nothing(kind: str, option: str, said: str) -> None:
    driver(kind)
    with pytest.raises(MapError, match=said) as caught:
        registry.make(kind, option)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ldap"])
@pytest.mark.parametrize(
    "search",
    [
        "?one?(uid=%10s)",
        "?one?(%26(uid=%s)(objectClass=%2a))",
        "?one?(%%26(uid=%s)(objectClass=%%2a))",
        "?sub?(uid=%s)?!x-bindpw=,bindname=",
    ],
)
def test_percent_signs_of_a_url(kind: str, filled: Filled, search: str) -> None:
    where = f"127.0.0.1:{service_of(kind).port}/ou=mailbox,dc=nodomain"
    for version in ("", "2:", "3:"):
        popmap = registry.make(kind, f"{version}ldap://{where}?username,mailhost,port{search}")
        assert popmap.lookup(query(b"port")) == PORT
        for key in (b"*", b"p*", b"*)(uid=*", b"\\2a"):
            assert popmap.lookup(query(key)) is None
        popmap.close()


@pytest.mark.parametrize("kind", ["ldap"])
def test_the_key_may_name_the_entry(kind: str, filled: Filled) -> None:
    where = f"127.0.0.1:{service_of(kind).port}/uid=%s,ou=mailbox,dc=nodomain"
    popmap = registry.make(kind, f"ldap://{where}?username,mailhost,port?base")
    assert popmap.lookup(query(b"0")) == route_of(next(iter(ENTRIES.values())))
    for key in (b"nobody", b"0,ou=mailbox", b"0+uid=0", b"x,uid=0", b"\\30"):
        assert popmap.lookup(query(key)) is None, key
    assert popmap.lookup(query(b"0")) is not None
    popmap.close()


@pytest.mark.parametrize("kind", ["ldap"])
@pytest.mark.parametrize(
    "url",
    [
        "9:ldap://localhost/", "http://localhost/", "ldap://h/b?a?deep?(uid=%s)",
        "ldap://h/b?a?one?(uid=%s)?!x-other=1,x-bindpw=sesame",
    ],
)  # fmt: skip
def test_urls_that_say_nothing(kind: str, url: str) -> None:
    driver(kind)
    with pytest.raises(MapError) as caught:
        registry.make(kind, url)
    assert "sesame" not in str(caught.value)


def test_the_schema_for_cn_config_is_the_schema(tmp_path: Path) -> None:
    schema = (ROOT / "share/ldap/perdition.schema").read_text()
    ldif = (ROOT / "share/ldap/perdition.ldif").read_text()
    spelled = ldif.replace("olcAttributeTypes:", "attributetype").replace(
        "olcObjectClasses:", "objectclass"
    )
    definitions = schema.split("\n\n", 1)[1].split()
    assert spelled.split()[-len(definitions) :] == definitions
    folder = tmp_path / "slapd.d"
    folder.mkdir()
    whole = tmp_path / "whole.ldif"
    head = "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n\n"
    head += "dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n"
    core = Path("/etc/ldap/schema/core.ldif")
    slapadd = program("slapadd", "/usr/sbin")
    whole.write_text(f"{head}{core.read_text()}\n\n{ldif}")
    done = subprocess.run(
        [slapadd, "-n0", "-F", folder, "-l", whole], capture_output=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
