"""What the maps that ask a service say and take, beside what the battery shows."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from tests.popmap.battery import Entries, query
from tests.popmap.daemon import Service as Daemon
from tests.popmap.http import answer, requests
from tests.popmap.lookup_services import Service, Talk
from tests.servers.lines import Lines
from tests.servers.perdition2 import perdition_2

from perdition.errors import MapError
from perdition.popmap import registry
from perdition.popmap.base import Popmap, Query, route_of
from perdition.popmap.daemon import request
from perdition.route import Route, Server


@contextmanager
def asked(kind: str, option: str, talk: Talk) -> Iterator[Popmap]:
    """A map before a service; PORT in the option is the service's."""
    service = Service(talk)
    service.start()
    popmap = registry.make(kind, option.replace("PORT", str(service.port)))
    try:
        yield popmap
    finally:
        popmap.close()
        service.stop()


def test_tcp_table_of_postfix() -> None:
    def talk(sock: socket.socket, _: Entries) -> None:
        with sock.makefile("rb") as reader:
            for line in reader:
                key = unquote_to_bytes(line[4:].strip())
                known = {b"jo": b"200 mail1.example:7", b"a b": b"200 x%40mail2.example"}
                sock.sendall(known.get(key, b"400 sick" if key == b"ill" else b"500 none") + b"\n")

    with asked("tcp", "tcp:127.0.0.1:PORT", talk) as popmap:
        assert popmap.lookup(query(b"jo")) == route_of(b"mail1.example:7")
        assert popmap.lookup(query(b"a b")) == route_of(b"x@mail2.example")
        assert popmap.lookup(query(b"no")) is None
        with pytest.raises(MapError, match="400 sick"):
            popmap.lookup(query(b"ill"))


@pytest.mark.parametrize("said", [b"x", b"9" * 70_000, b"12:", b"99999999:OK a,", b"4:WHAT,", b""])
def test_an_answer_without_sense_or_end_is_a_trouble(said: bytes) -> None:
    def talk(sock: socket.socket, _: Entries) -> None:
        sock.recv(100)
        sock.sendall(said)

    with asked("tcp", "socketmap:inet:127.0.0.1:PORT:m", talk) as popmap, pytest.raises(MapError):
        popmap.lookup(query(b"jo"))


def test_http_in_the_words_of_nginx() -> None:
    heard: list[dict[str, str]] = []

    def talk(sock: socket.socket, _: Entries) -> None:
        for target, headers in requests(sock):
            assert target == "/auth"
            heard.append(headers)
            good = ("Auth-Status: OK", "Auth-Server: 192.0.2.7", "Auth-Port: 144")
            if headers["auth-user"] == "jo%40x.org":
                answer(sock, "200 OK", b"", *good)
            else:
                answer(sock, "200 OK", b"", "Auth-Status: Invalid login or password")

    with asked("http", "http://127.0.0.1:PORT/auth", talk) as popmap:
        assert popmap.lookup(query(b"jo@x.org")) == Route((Server("192.0.2.7", "144"),))
        assert popmap.lookup(query(b"no")) is None
    assert heard[0]["client-ip"] == "192.0.2.1"
    assert "auth-pass" not in heard[0]


@pytest.mark.parametrize(
    ("status", "body", "route"),
    [
        ("200 OK", '{"server": "a.example", "port": 7}', route_of(b"a.example:7")),
        ("200 OK", '{"server": "a.example", "user": "bo"}', route_of(b"bo@a.example")),
        ("200 OK", '{"servers": ["a.example:1", "b.example"]}', route_of(b"a.example:1,b.example")),
        ("200 OK", "[]", "no JSON object"),
        ("200 OK", "[" * 50_000, "no JSON object"),
        ("200 OK", '{"servers": 7}', "no list"),
        ("200 OK", '{"server": "a b"}', "no server"),
        ("200 OK", "x" * 70_000, "more than"),
        ("500 Sick", "", "status 500"),
    ],
    ids=str,
)
def test_http_answers(status: str, body: str, route: Route | str) -> None:
    def talk(sock: socket.socket, _: Entries) -> None:
        for _target, _headers in requests(sock):
            answer(sock, status, body.encode())

    with asked("http", "http://127.0.0.1:PORT/%s", talk) as popmap:
        if isinstance(route, str):
            with pytest.raises(MapError, match=route):
                popmap.lookup(query(b"jo"))
        else:
            assert popmap.lookup(query(b"jo")) == route


def test_a_command_that_hangs_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdition.popmap.command.TIMEOUT", 0.3)
    left = tmp_path / "left"
    hangs = registry.make("command", f"/bin/sh -c 'sleep 20; touch {left}'")
    started = time.monotonic()
    with pytest.raises(MapError, match=r"no answer within"):
        hangs.lookup(query(b"jo"))
    assert time.monotonic() - started < 5
    for words, why in (("/bin/false", None), ("/bin/sh -c 'exit 75'", "75"), ("/bin/true", "0")):
        popmap = registry.make("command", words)
        if why is None:
            assert popmap.lookup(query(b"jo")) is None
        else:
            with pytest.raises(MapError, match=f"status {why}"):
                popmap.lookup(query(b"jo"))
    endless = registry.make("command", "/bin/cat /dev/zero")
    with pytest.raises(MapError, match="more than 65536 bytes"):
        endless.lookup(query(b"jo"))
    for words in ("", "look", "/bin/sh 'x"):
        with pytest.raises(MapError):
            registry.make("command", words)


def test_the_daemon_is_asked_as_2_2_asks_it(
    need: Callable[[str], str], folder: Path, certificates: Path
) -> None:
    """The same bytes for the same client, byte order and all."""
    service = Daemon(folder / "map")
    service.fill({b"user@d": b"127.0.0.1:9"})
    service.start()
    try:
        options = (
            "--map_library",
            "libperditiondb_daemon.so.0",
            "--map_library_opt",
            f"{service.path}:1:1",
        )
        with (
            perdition_2(need("perdition"), 9, certificates, *options) as port,
            Lines.to(port) as lines,
        ):
            client, local = lines.sock.getsockname(), lines.sock.getpeername()
            for command in ("", "USER user@d", "PASS x"):
                if command:
                    lines.say(command)
                lines.hear()
    finally:
        service.stop()
    assert service.asked[0] == request(Query(b"user@d", b"@", client, local))


def test_the_daemon_of_an_ipv6_client_hears_its_address_as_text() -> None:
    asked_for = request(Query(b"jo", b"@", ("2001:db8::1", 7), ("::1", 143)))
    assert asked_for[:12].hex() == "0707070700010003" + f"{len(asked_for):04x}" + "0000"
    assert asked_for.endswith(b"\x00\x0b2001:db8::1\x00\x017\x00\x03::1\x00\x03143")


def test_nis_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No private ypserv can be run here: what ypmatch says is what it is known to say."""
    known = tmp_path / "ypmatch"
    known.write_text(
        '#!/bin/sh\ntest "$2" = users || exit 9\ncase "$1" in jo) echo mail1.example:7 ;; an) ;;\n'
        '*) echo "Can\'t match key $1 in map $2. Reason: No such key in map" >&2; exit 1 ;;\nesac\n'
    )
    known.chmod(0o755)
    popmap = registry.make("nis", "users")
    with pytest.raises(MapError):
        popmap.lookup(query(b"jo"))  # this machine is in no NIS domain
    monkeypatch.setattr("perdition.popmap.nis.Map.COMMAND", str(known))
    assert popmap.lookup(query(b"jo")) == route_of(b"mail1.example:7")
    with pytest.raises(MapError, match="an empty answer"):
        popmap.lookup(query(b"an"))
    for key in (b"no", b"-d", b"two words", b"jo\n"):
        assert popmap.lookup(query(key)) is None
    with pytest.raises(MapError, match="not the name"):
        registry.make("nis", "-x")
    assert subprocess.run([known, "jo", "other"], check=False).returncode == 9


def test_every_kind_has_its_battery() -> None:
    folder = Path(__file__).parent
    without = {n for n, k in registry.KINDS.items() if not (folder / f"{k.module}.py").exists()}
    assert without == {"nis"}, "see test_nis_by_its_command"


def test_spellings_of_2_2_and_unknown_kinds() -> None:
    for spelling in (
        "gdbm",
        "GDBM",
        "libperditiondb_gdbm.so.0",
        "/any/libperditiondb_gdbm.so.0.0.0",
    ):
        assert registry.kind_of(spelling) == "gdbm"
    assert registry.kind_of("/usr/lib/libperditiondb_posix_regex.so.0") == "posix_regex"
    with pytest.raises(MapError, match="unknown map 'x'; known: bdb, "):
        registry.make("x", "")
