"""What the maps that ask a service say and take, beside what the battery shows."""

from __future__ import annotations

import os
import shlex
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from tests.popmap.battery import Entries, query
from tests.popmap.daemon import Service as Daemon
from tests.popmap.http import answer, requests
from tests.popmap.lookup_services import Service, Talk
from tests.popmap.test_contract import driver
from tests.servers.lines import Lines
from tests.servers.perdition2 import perdition_2
from tests.servers.ports import end, free_port, listens, wait_for

from perdition.errors import MapError
from perdition.popmap import registry
from perdition.popmap.base import Popmap, Query, route_of
from perdition.popmap.daemon import request
from perdition.route import Route


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


@pytest.mark.parametrize(
    "said",
    [
        b"x", b"9" * 70_000, b"12:", b"99999999:OK a,", b"4:WHAT,", b"", b"4:OK ax", b"-4:OK a,",
        b"999999:" + b"a" * 70_000, b"8:TEMP ill,",
    ],
)  # fmt: skip
def test_an_answer_without_sense_or_end_is_a_trouble(said: bytes) -> None:
    def talk(sock: socket.socket, _: Entries) -> None:
        sock.recv(100)
        sock.sendall(said)

    with asked("tcp", "socketmap:inet:127.0.0.1:PORT:m", talk) as popmap, pytest.raises(MapError):
        popmap.lookup(query(b"jo"))


def test_what_comes_unasked_answers_nobody() -> None:
    """A second answer behind the first would be taken for the next user's."""

    def socketmap(sock: socket.socket, _: Entries) -> None:
        sock.recv(100)
        sock.sendall(b"14:OK a.example:1,14:OK evil.exam:2,")
        sock.recv(100)

    with asked("tcp", "socketmap:inet:127.0.0.1:PORT:m", socketmap) as popmap:
        for _ in range(2):
            assert popmap.lookup(query(b"jo")) == route_of(b"a.example:1")

    def web(sock: socket.socket, _: Entries) -> None:
        for _target, _headers in requests(sock):
            body = b'{"server": "a.example"}'
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
            evil = b'{"server": "evil.example"}'
            sock.sendall(head % len(body) + body + head % len(evil) + evil)

    with asked("http", "http://127.0.0.1:PORT/%s", web) as popmap:
        for _ in range(3):
            assert popmap.lookup(query(b"jo")) == route_of(b"a.example")


TORMENTS: dict[str, tuple[bytes, bytes]] = {  # what is sent first, and then for ever
    "no end of the status": (b"HTTP/1.1 2", b"0"),
    "no end of the headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "no end of a header": (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "go on, and on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "no end of the body": (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    "no end of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", b"x"),
    "no end of chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"
    ),
    "nothing": (b"", b""),
}  # fmt: skip


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["fast", "drop by drop"])
@pytest.mark.parametrize("torment", TORMENTS)
def test_http_answers_without_an_end(
    torment: str, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdition.popmap.http.TIMEOUT", 0.4)
    first, then = TORMENTS[torment]

    def talk(sock: socket.socket, _: Entries) -> None:
        next(requests(sock))
        sock.sendall(first)
        while True:
            if pause or not then:
                time.sleep(pause or 0.05)
            sock.sendall(then)

    with asked("http", "http://127.0.0.1:PORT/%s", talk) as popmap:
        started = time.monotonic()
        with pytest.raises(MapError):
            popmap.lookup(query(b"jo"))
        assert time.monotonic() - started < 6


def test_tcp_answers_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdition.popmap.stream.TIMEOUT", 0.4)

    def talk(sock: socket.socket, _: Entries) -> None:
        sock.recv(100)
        sock.sendall(b"9999:")
        while True:
            time.sleep(0.05)
            sock.sendall(b"x")

    with asked("tcp", "socketmap:inet:127.0.0.1:PORT:m", talk) as popmap:
        started = time.monotonic()
        with pytest.raises(MapError, match="timed out"):
            popmap.lookup(query(b"jo"))
        assert time.monotonic() - started < 2


def nginx_asks(program: str, folder: Path, names: list[bytes]) -> list[dict[str, str]]:
    """The headers with which nginx's mail proxy asks for the server of each name."""
    heard: list[dict[str, str]] = []

    def talk(sock: socket.socket, _: Entries) -> None:
        for _target, headers in requests(sock):
            heard.append(headers)
            sock.sendall(b"HTTP/1.0 200 OK\r\nAuth-Status: no\r\n\r\n")
            return

    service = Service(talk)
    service.start()
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\n"
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;\n"
        f"events {{}} mail {{ auth_http 127.0.0.1:{service.port}/auth;\n"
        f"server {{ listen 127.0.0.1:{port}; protocol imap; }} }}\n"
    )
    process = subprocess.Popen([program, "-e", folder / "errors", "-c", configuration])
    try:
        wait_for(lambda: listens(port), "nginx is silent")
        for name in names:
            with Lines.to(port) as lines:
                lines.hear()
                lines.say(f"a LOGIN {{{len(name)}}}")
                lines.hear()
                lines.sock.sendall(name + b" x\r\n")
                lines.hear()
    finally:
        end(process)
        service.stop()
    return heard


def test_http_asks_as_nginx_asks(tmp_path: Path, need: Callable[[str], str]) -> None:
    """The same headers for the same names, but for the password."""
    names = [b"jo@x.org", b"a b%c", b"tab\there", "jürgen".encode(), b"o'hara<>&?=+/:;,#\"\\"]
    theirs = nginx_asks(need("nginx"), tmp_path, names)
    heard: list[dict[str, str]] = []

    def talk(sock: socket.socket, _: Entries) -> None:
        for target, headers in requests(sock):
            assert target == "/auth"
            heard.append(headers)
            answer(sock, "200 OK", b"", "Auth-Status: no")

    with asked("http", "http://127.0.0.1:PORT/auth", talk) as popmap:
        for name in names:
            asked_for = Query(name, b"@", ("127.0.0.1", 40000), ("127.0.0.1", 143), "imap")
            assert popmap.lookup(asked_for) is None
    for their, own in zip(theirs, heard, strict=True):
        assert (their.pop("auth-method"), own.pop("auth-method")) == ("plain", "none")
        their.pop("auth-pass")
        their.pop("auth-login-attempt")
        assert {name: own.get(name) for name in their if name != "host"} == {
            name: value for name, value in their.items() if name != "host"
        }
        assert "auth-pass" not in own


# What a service answers to nginx, beside status 200 -> what it means here.
NGINX: list[tuple[tuple[str, ...], Route | str | None]] = [
    (("OK", "Server: 192.0.2.7", "Port: 144"), route_of(b"192.0.2.7:144")),
    (("OK", "Server: 192.0.2.7", "Port: 144", "User: b\xfc"),
     route_of(b"b\xfc@192.0.2.7:144")),
    (("OK", "Server: 192.0.2.7", "Port: 144", "User: jo"), route_of(b"192.0.2.7:144")),
    (("OK", "Server: 2001:db8::1", "Port: 144"), route_of(b"[2001:db8::1]:144")),
    (("OK", "Server: 192.0.2.7"), route_of(b"192.0.2.7")),
    (("OK", "Port: 144"), "OK without Auth-Server"),
    (("OK", "Server: 192.0.2.7", "Port: x y"), "no server"),
    (("OK", "Server: 192.0.2.7", "Port: 99999"), "no such port"),
    (("Invalid login or password", "Wait: 3"), None),
    (("Invalid login or password", "Error-Code: 535 5.7.8", "Wait: 3"), None),
    (("Temporary server problem", "Error-Code: 451 4.3.0", "Wait: 3"), "Temporary server problem"),
    (("WAIT", "Wait: 3"), "WAIT"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "route"), NGINX, ids=str)
def test_http_answers_in_the_words_of_nginx(
    said: tuple[str, ...], route: Route | str | None
) -> None:
    def talk(sock: socket.socket, _: Entries) -> None:
        for _target, _headers in requests(sock):
            status, *more = said
            lines = (f"Auth-Status: {status}", *(f"Auth-{line}" for line in more))
            head = "".join(f"{line}\r\n" for line in ("HTTP/1.0 200 OK", *lines))
            sock.sendall(head.encode("latin-1") + b"\r\n")
            return

    with asked("http", "http://127.0.0.1:PORT/auth", talk) as popmap:
        if isinstance(route, str):
            with pytest.raises(MapError, match=route):
                popmap.lookup(query(b"jo"))
        else:
            assert popmap.lookup(query(b"jo")) == route


def test_http_is_told_the_account_of_the_url_and_follows_nobody() -> None:
    heard: list[dict[str, str]] = []

    def talk(sock: socket.socket, _: Entries) -> None:
        for _target, headers in requests(sock):
            heard.append(headers)
            answer(sock, "302 Found", b"", "Location: http://192.0.2.1/")

    url = "http://me:p%40ss@127.0.0.1:PORT/%s"
    with asked("http", url, talk) as popmap, pytest.raises(MapError, match="status 302") as caught:
        popmap.lookup(query(b"jo"))
    assert heard[0]["authorization"] == "Basic " + b64encode(b"me:p@ss").decode()
    assert "p@ss" not in str(caught.value)


def test_http_over_tls_wants_a_certificate_of_the_host(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")

    def talk(sock: socket.socket, _: Entries) -> None:
        with suppress(OSError), server.wrap_socket(sock.dup(), server_side=True) as secure:
            for _target, _headers in requests(secure):
                answer(secure, "200 OK", b'{"server": "a.example"}')

    with asked("http", "https://localhost:PORT/%s", talk) as popmap:
        with pytest.raises(MapError, match="localhost: "):
            popmap.lookup(query(b"jo"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        for _ in range(2):
            assert popmap.lookup(query(b"jo")) == route_of(b"a.example")


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
        ("200 OK", '{"server": 7}', "no text"),
        ("200 OK", '{"server": null}', Route(())),
        ("200 OK", '{"value": null}', "no text"),
        ("200 OK", '{"value": "a.example:7"}', route_of(b"a.example:7")),
        ("200 OK", '{"servers": ["a.example", null]}', "no text"),
        ("200 OK", '{"server": "a.example", "port": 1.5}', "no text"),
        ("200 OK", '{"server": "a.example", "port": true}', "no text"),
        ("200 OK", '{"server": "a.example", "user": "b\\r\\nc"}', "control characters"),
        ("200 OK", '{"value": "b\\r\\nc@a.example"}', "control characters"),
        ("200 OK", '{"server": "a\\r\\nb"}', "no server"),
        ("200 OK", '{"server": "\\ud800"}', "no text"),
        ("200 OK", '{"port": ' + "9" * 5000 + "}", "no JSON object"),
        ("302 Found", "", "status 302"),
        ("204 No Content", "", "status 204"),
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
    assert not left.exists()
    endless = registry.make("command", "/bin/cat /dev/zero")
    with pytest.raises(MapError, match="more than 65536 bytes"):
        endless.lookup(query(b"jo"))
    for words in ("", "look", "/bin/sh 'x"):
        with pytest.raises(MapError):
            registry.make("command", words)


def test_a_command_gets_nothing_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither descriptors nor environment, and the key is no argument."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    program = (
        "import os, sys; descriptors = len(os.listdir('/proc/self/fd')) - 1; "
        "print('-'.join([f'fd{descriptors}', f'argv{len(sys.argv)}', *sorted(os.environ)]))"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        os.set_inheritable(listening.fileno(), True)
        popmap = registry.make("command", f"{sys.executable} -I -S -c {shlex.quote(program)}")
        assert popmap.lookup(query(b"--help; id")) == route_of(b"fd3-argv1-LANG-PATH")


def test_a_command_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the program nor its children nor a zombie, be it that it answers or not."""
    monkeypatch.setattr("perdition.popmap.command.TIMEOUT", 0.3)
    rest = f"sleep 30.{os.getpid()}"
    for body in (
        f"{rest} & echo a.example", f"{rest} & exec >&-; wait", "cat /dev/zero",
        f"exec >&-; {rest}", f"({rest} &); exit 1", f"{rest} & kill -9 $$", "exec <&-; exit 1",
    ):  # fmt: skip
        popmap = registry.make("command", f"/bin/sh -c {shlex.quote(body)}")
        with suppress(MapError):
            popmap.lookup(query(b"jo"))
    wait_for(lambda: not _running(rest.encode().replace(b" ", b"\0")), "children are left")
    assert not _zombies()


def _running(words: bytes) -> list[Path]:
    """Processes with these words in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words in path.read_bytes():
                found.append(path)
    return found


def _zombies() -> list[str]:
    """Children of this process of whose end nobody has taken note."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    stats = [Path(f"/proc/{child}/stat").read_text() for child in " ".join(children).split()]
    return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]


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


def test_nis_that_is_not_there_or_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the battery's domain does not do."""
    popmap = registry.make("nis", "users")
    with pytest.raises(MapError):
        popmap.lookup(query(b"jo"))  # this machine is in no NIS domain
    empty, flood = tmp_path / "empty", tmp_path / "hangs"
    empty.write_text("#!/bin/sh\necho\n")
    flood.write_text("#!/bin/sh\nexec sleep 20\n")
    for program, said in ((empty, "an empty answer"), (flood, "no answer within")):
        program.chmod(0o755)
        monkeypatch.setattr("perdition.popmap.nis.TIMEOUT", 0.3)
        monkeypatch.setattr("perdition.popmap.nis.Map.COMMAND", str(program))
        with pytest.raises(MapError, match=said):
            popmap.lookup(query(b"jo"))
    for key in (b"two words", b"jo\n", b""):
        assert popmap.lookup(query(key)) is None
    for name in ("-x", "a b", "a/b"):
        with pytest.raises(MapError, match="not the name"):
            registry.make("nis", name)


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


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("http", ""), ("http", "ftp://h/"), ("http", "http://"), ("http", "http://[::1/"),
        ("http", "http://h:x/"), ("http", "http://h:99999/"), ("http", "http://h/a b"),
        ("http", "http://h/\xfc"), ("http", "http://h/\x01"),
        ("tcp", "socketmap:inet:h:1:"), ("tcp", "socketmap:inet:h:1:a b"), ("tcp", "tcp:h"),
        ("tcp", "socketmap:unix:h:1:m"), ("tcp", "socketmap:inet:/h:m"), ("tcp", "tcp:h:\xb2"),
        ("tcp", "tcp:h:0"), ("tcp", "what"), ("daemon", "/s:\xb2"), ("daemon", "/s:1:2:3"),
        ("redis", "redis://[::1"), ("redis", "redis://h?decode_responses=1"), ("redis", "http://h"),
        ("redis", "redis://h?key=x"), ("mysql", "h:\xb2:db"),
    ],
)  # fmt: skip
def test_options_that_can_not_be_meant(kind: str, option: str) -> None:
    driver(kind)
    with pytest.raises(MapError):
        registry.make(kind, option)
