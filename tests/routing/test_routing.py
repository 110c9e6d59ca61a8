"""Two Dovecots behind one map: who goes where, what an edit does, and when a server is gone."""

from __future__ import annotations

import base64
import imaplib
import os
import poplib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port

PASSWORD = "canary-pw"
USERS = ("ann", "bob", "cyd")

own_hosts = pytest.mark.skipif(os.getuid() != 0, reason="only root has an /etc/hosts of its own")


class Pair(NamedTuple):
    """Both servers; each knows all users, and has a mailbox named after itself for each."""

    one: Dovecot
    two: Dovecot


@pytest.fixture(scope="module")
def pair(need: Callable[[str], str], folder: Path) -> Iterator[Pair]:
    program = need("dovecot")
    users = dict.fromkeys(USERS, PASSWORD)
    with (
        Dovecot(program, folder / "d1", users) as one,
        Dovecot(program, folder / "d2", users) as two,
    ):
        mark(one, "one")
        mark(two, "two")
        yield Pair(one, two)


def edit(path: Path, **entries: str) -> None:
    new = path.with_suffix(".new")
    new.write_text("".join(f"{user}:{value}\n" for user, value in entries.items()))
    os.replace(new, path)


@pytest.fixture
def popmap() -> Iterator[Path]:
    """Give a path that a daemon without privileges can read."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        os.chmod(name, 0o755)
        yield Path(name) / "popmap"


def daemon(where: Path, popmap: Path, *options: str, command: str = "perdition.imap4") -> Daemon:
    return Daemon(
        where, "map_library popmap", f"map_library_opt {popmap}", "failure_delay 0",
        *options, command=command,
    )  # fmt: skip


def by_imap(port: int, user: str) -> str:
    with imaplib.IMAP4("127.0.0.1", port) as imap:
        imap.login(user, PASSWORD)
        _, mailboxes = imap.list('""', "this-is-*")
        assert isinstance(mailboxes[0], bytes)
        return mailboxes[0].rsplit(b"-", 1)[1].decode()


def by_pop3(port: int, user: str) -> str:
    pop = poplib.POP3("127.0.0.1", port, 10)
    pop.user(user)
    pop.pass_(PASSWORD)
    _, head, _ = pop.top(1, 0)
    pop.quit()
    return next(line for line in head if b"this-is-" in line).rsplit(b"-", 1)[1].decode()


def by_managesieve(port: int, user: str) -> str:
    with Lines.to(port) as lines:
        log_in_by_managesieve(lines, user)
        lines.say("LISTSCRIPTS")
        said = until_ok(lines)
    return next(line for line in said if "this-is-" in line).strip('"').rsplit("-", 1)[1]


def log_in_by_managesieve(lines: Lines, user: str) -> None:
    until_ok(lines)
    secret = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
    lines.say(f'AUTHENTICATE "PLAIN" "{secret}"')
    until_ok(lines)


def until_ok(lines: Lines) -> list[str]:
    said: list[str] = []
    while not said or not said[-1].startswith(("OK", "NO", "BYE")):
        said.append(lines.hear())
        assert said[-1], said
    assert said[-1].startswith("OK"), said
    return said


class Spoken(NamedTuple):
    """How a protocol is asked for the server that a user's login reaches."""

    command: str
    home: Callable[[int, str], str]  # port, user -> "one", "two"
    port: Callable[[Dovecot], int]


PROTOCOLS = {
    "imap4": Spoken("perdition.imap4", by_imap, lambda server: server.port),
    "pop3": Spoken("perdition.pop3", by_pop3, lambda server: server.pop3),
    "managesieve": Spoken("perdition.managesieve", by_managesieve, lambda server: server.sieve),
}


@pytest.fixture(params=PROTOCOLS)
def spoken(request: pytest.FixtureRequest) -> Spoken:
    return PROTOCOLS[request.param]


def home(port: int, user: str) -> str:
    """The server that a login by IMAP reaches: ``one`` or ``two``."""
    return by_imap(port, user)


def mark(server: Dovecot, name: str) -> None:
    """Give each user a mailbox, a mail and a script that tell this server."""
    for user in server.users:
        with imaplib.IMAP4("127.0.0.1", server.port) as imap:
            imap.login(user, PASSWORD)
            imap.create(f"this-is-{name}")
            imap.append("INBOX", "", "", f"Subject: this-is-{name}\r\n\r\n".encode())
        with Lines.to(server.sieve) as lines:
            log_in_by_managesieve(lines, user)
            lines.say(f'PUTSCRIPT "this-is-{name}" "keep;"')
            until_ok(lines)


def test_users_go_where_the_map_says_and_an_edit_moves_the_next_login(
    spoken: Spoken, pair: Pair, popmap: Path, tmp_path: Path
) -> None:
    one, two = (f"127.0.0.1:{spoken.port(server)}" for server in pair)
    edit(popmap, ann=one, bob=two)
    default = f"outgoing_server {two}"
    with daemon(tmp_path / "d", popmap, default, command=spoken.command) as proxy:
        pid = proxy.process.pid
        assert [spoken.home(proxy.port, user) for user in USERS] == ["one", "two", "two"]
        edit(popmap, ann=two, cyd=one)
        assert [spoken.home(proxy.port, user) for user in USERS] == ["two", "two", "one"]
        assert (proxy.process.pid, proxy.process.poll()) == (pid, None)


def test_a_dovecot_that_stops_costs_nobody_a_wait(
    spoken: Spoken, pair: Pair, need: Callable[[str], str], folder: Path, popmap: Path
) -> None:
    """And its users are there again soon after it is."""
    with Dovecot(need("dovecot"), folder / f"doomed-{spoken.command}", {"ann": PASSWORD}) as third:
        mark(third, "three")
        edit(popmap, ann=",".join(f"127.0.0.1:{spoken.port(s)}" for s in (third, pair.two)))
        with daemon(
            popmap.parent / "d", popmap, "server_retry 2", "workers 1", command=spoken.command
        ) as proxy:
            assert spoken.home(proxy.port, "ann") == "three"
            third.process.send_signal(signal.SIGTERM)
            third.process.wait(20)
            started = time.monotonic()
            assert [spoken.home(proxy.port, "ann") for _ in range(3)] == ["two"] * 3
            assert time.monotonic() - started < 2
            (downs,) = proxy.wait_for_log("^server .* is down: ")
            assert f":{spoken.port(third)} " in downs


class Swallowing:
    """A port at which connections are neither taken nor refused, until one is. A context."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.settimeout(10)
        self._listening.bind((host, port))
        self._listening.listen(0)
        self.port = int(self._listening.getsockname()[1])
        self._fillers = [socket.socket() for _ in range(3)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex((host, self.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listening, *self._fillers):
            sock.close()

    def take(self) -> socket.socket:
        """Accept somebody else's connection at last."""
        own = {filler.getsockname()[1] for filler in self._fillers}
        while True:
            sock, peer = self._listening.accept()
            if peer[1] not in own:
                return sock
            sock.close()


def test_a_server_that_swallows_connections_costs_one_client_the_connect_deadline(
    spoken: Spoken, pair: Pair, popmap: Path, tmp_path: Path
) -> None:
    with Swallowing() as gone:
        there = f"127.0.0.1:{gone.port}"
        edit(popmap, ann=f"{there},127.0.0.1:{spoken.port(pair.two)}")
        with daemon(
            tmp_path / "d", popmap, "connect_timeout 1", "workers 1", command=spoken.command
        ) as proxy:
            started = time.monotonic()
            assert spoken.home(proxy.port, "ann") == "two"
            assert 0.9 < time.monotonic() - started < 3.5
            started = time.monotonic()
            assert [spoken.home(proxy.port, "ann") for _ in range(3)] == ["two"] * 3
            assert time.monotonic() - started < 1, "only one client waits"
            proxy.wait_for_log(f"^server {there} is down: connect_timeout")


def test_imap_users_go_where_the_map_says_and_an_edit_moves_them(
    pair: Pair, popmap: Path, tmp_path: Path
) -> None:
    one, two = f"127.0.0.1:{pair.one.port}", f"127.0.0.1:{pair.two.port}"
    edit(popmap, ann=one, bob=two)
    with daemon(tmp_path / "d", popmap, f"outgoing_server {two}", "workers 1") as proxy:
        assert [home(proxy.port, user) for user in USERS] == ["one", "two", "two"]
        edit(popmap, ann=two, cyd=one)
        assert [home(proxy.port, user) for user in USERS] == ["two", "two", "one"]
        popmap.write_text("this is no popmap\n")
        assert [home(proxy.port, user) for user in USERS] == ["two", "two", "one"]
        proxy.wait_for_log(r"^popmap: .*popmap:1: not KEY:VALUE")
        edit(popmap, ann=one)
        assert home(proxy.port, "ann") == "one"
        popmap.unlink()
        assert home(proxy.port, "ann") == "one"
        said = [line for line in proxy.lines if line.startswith("popmap: ")]
    assert [line.partition("popmap: ")[2].rpartition(": ")[2] for line in said] == [
        "not KEY:VALUE", "answers again", "No such file or directory",
    ]  # fmt: skip


def test_a_user_whom_no_map_knows_is_refused(pair: Pair, popmap: Path, tmp_path: Path) -> None:
    edit(popmap, ann=f"127.0.0.1:{pair.one.port}")
    with daemon(tmp_path / "d", popmap) as proxy, Lines.to(proxy.port) as lines:
        lines.hear()
        assert lines.ask("a LOGIN nobody x") == ["a NO failed: Could not determine server"]
        assert lines.ask(f"b LOGIN ann {PASSWORD}")[-1].startswith("b OK")


@pytest.mark.parametrize(
    "host", ["x" * 70, "a" * 300, "a..b", ".", "\u00fc" * 70, "no-such.invalid"]
)
def test_a_server_that_no_name_can_be_is_a_server_that_is_not_there(
    host: str, popmap: Path, tmp_path: Path
) -> None:
    """Not a fault of ours, whoever names it: the map, or the user himself."""
    edit(popmap, ann=host)
    with (
        daemon(tmp_path / "d", popmap, "client_server_specification", "workers 1") as proxy,
        Lines.to(proxy.port) as lines,
    ):
        lines.hear()
        for name in ("ann", f"bob@{host}"):
            answer = lines.ask(f'a LOGIN "{name}" x')[-1]
            assert answer.startswith(("a NO", "a BAD")), answer
        assert not [line for line in proxy.lines if "Traceback" in line or "rror:" in line]


def test_a_broken_map_is_a_trouble_that_passes_and_no_unknown_user(tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    with Daemon(
        tmp_path / "d", "map_library sqlite", f"map_library_opt {missing}",
        "outgoing_server 127.0.0.1:9",
    ) as proxy, Lines.to(proxy.port) as lines:  # fmt: skip
        lines.hear()
        answer = lines.ask("a LOGIN ann x")
        assert answer == ["a NO [UNAVAILABLE] failed: Could not look up server"]
        proxy.wait_for_log("^popmap: ")
        proxy.wait_for_log(r'status="failed: Could not look up server"')


def test_the_second_server_serves_when_the_first_is_gone_or_silent(
    pair: Pair, popmap: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gone, quiet = free_port(), silent.getsockname()[1]
        two = f"127.0.0.1:{pair.two.port}"
        edit(popmap, ann=f"127.0.0.1:{gone},{two}", bob=f"127.0.0.1:{quiet},{two}")
        with daemon(tmp_path / "d", popmap, "greeting_timeout 1", "workers 1") as proxy:
            assert home(proxy.port, "ann") == "two"
            proxy.wait_for_log(rf"^server 127.0.0.1:{gone} is down: ")
            started = time.monotonic()
            assert home(proxy.port, "bob") == "two"
            assert 1 <= time.monotonic() - started < 5
            started = time.monotonic()
            assert [home(proxy.port, "bob") for _ in range(3)] == ["two"] * 3
            assert time.monotonic() - started < 1, "only one client waits for a silent server"


def test_a_full_server_leaves_the_rest_to_the_next(
    pair: Pair, popmap: Path, tmp_path: Path
) -> None:
    edit(popmap, ann=f"127.0.0.1:{pair.one.port},127.0.0.1:{pair.two.port}")
    with daemon(tmp_path / "d", popmap, "server_connection_limit 1", "workers 1") as proxy:
        with imaplib.IMAP4("127.0.0.1", proxy.port) as first:
            first.login("ann", PASSWORD)
            with imaplib.IMAP4("127.0.0.1", proxy.port) as second:
                second.login("ann", PASSWORD)
                with Lines.to(proxy.port) as third:
                    third.hear()
                    answer = third.ask(f"a LOGIN ann {PASSWORD}")[-1]
                    assert answer.startswith("a NO [UNAVAILABLE]")
        proxy.wait_for_log("^Closing session", 2)
        assert home(proxy.port, "ann") == "one"


def with_hosts(proxy: Daemon, path: Path, program: str, text: str) -> Daemon:
    """The daemon, before it starts, with a hosts file that it alone sees."""
    path.write_text(text)
    proxy.wrapper = (
        program,
        "-m",
        "sh",
        "-c",
        f'mount --bind {path} /etc/hosts && exec "$@"',
        "sh",
    )
    return proxy


TWOFOLD = "127.0.0.1 twofold.example\n127.0.0.9 twofold.example\n"  # tried in this order
GREETING = "* OK [CAPABILITY IMAP4rev1] ready"


@own_hosts
def test_the_next_address_of_a_name_is_tried_soon_and_remembered(
    popmap: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    """A name whose first address swallows connections."""
    with Swallowing() as slow, socket.create_server(("127.0.0.9", slow.port)) as quick:
        quick.settimeout(10)
        edit(popmap, ann=f"twofold.example:{slow.port}")
        proxy = daemon(tmp_path / "d", popmap, "workers 1")
        with with_hosts(proxy, popmap.parent / "hosts", need("unshare"), TWOFOLD):
            waits = []
            for _ in range(2):
                with Lines.to(proxy.port) as lines:
                    lines.hear()
                    started = time.monotonic()
                    lines.say("a LOGIN ann x")
                    with Lines(quick.accept()[0]) as server:
                        waits.append(time.monotonic() - started)
                        server.say(GREETING)
                        tag = server.hear().split()[0]
                        server.say(f"{tag} OK [CAPABILITY IMAP4rev1] in")
                        assert lines.hear().startswith("* CAPABILITY")
                        assert lines.hear().startswith("a OK")
    assert 0.24 < waits[0] < 0.9
    assert waits[1] < 0.2


@own_hosts
def test_a_wrong_password_at_the_second_address_is_no_server_that_is_down(
    popmap: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    with Swallowing() as dead, socket.create_server(("127.0.0.9", dead.port)) as quick:
        quick.settimeout(10)
        edit(popmap, ann=f"twofold.example:{dead.port}")
        proxy = daemon(tmp_path / "d", popmap, "workers 1")
        with with_hosts(proxy, popmap.parent / "hosts", need("unshare"), TWOFOLD):
            for _ in range(2):
                with Lines.to(proxy.port) as lines:
                    lines.hear()
                    started = time.monotonic()
                    lines.say("a LOGIN ann x")
                    with Lines(quick.accept()[0]) as server:
                        took = time.monotonic() - started
                        server.say(GREETING)
                        server.say(f"{server.hear().split()[0]} NO [AUTHENTICATIONFAILED] no")
                        assert lines.hear().startswith("a NO [AUTHENTICATIONFAILED]")
            assert took < 0.2, "the address that answered is remembered"
            assert not [line for line in proxy.lines if "is down" in line]


@own_hosts
def test_a_slow_address_is_tried_again_when_the_others_fail(
    popmap: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    """The first address takes connections after a while, the second refuses them."""
    with Swallowing() as slow:
        edit(popmap, ann=f"twofold.example:{slow.port}")
        proxy = daemon(tmp_path / "d", popmap, "workers 1")
        hosts = popmap.parent / "hosts"
        with with_hosts(proxy, hosts, need("unshare"), TWOFOLD), Lines.to(proxy.port) as lines:
            lines.hear()
            lines.say("a LOGIN ann x")
            time.sleep(0.5)  # both addresses have been tried by now
            with Lines(slow.take()) as server:
                server.say(GREETING)
                assert server.hear().endswith('LOGIN "ann" "x"')


@own_hosts
def test_a_dead_address_does_not_hold_up_a_slow_one(
    popmap: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    """Neither connects in 250 ms, the second does in a second: no whole deadline for the first."""
    with Swallowing() as dead, Swallowing("127.0.0.9", dead.port) as slow:
        edit(popmap, ann=f"twofold.example:{dead.port}")
        proxy = daemon(tmp_path / "d", popmap, "workers 1", "connect_timeout 10")
        hosts = popmap.parent / "hosts"
        with with_hosts(proxy, hosts, need("unshare"), TWOFOLD), Lines.to(proxy.port) as lines:
            lines.hear()
            started = time.monotonic()
            lines.say("a LOGIN ann x")
            time.sleep(0.6)  # both have been tried once
            with Lines(slow.take()) as server:
                server.say(GREETING)
                assert server.hear().endswith('LOGIN "ann" "x"')
            assert time.monotonic() - started < 5


def test_the_domain_is_the_reverse_name_of_the_address_reached(tmp_path: Path) -> None:
    reverse = socket.getnameinfo(("127.0.0.1", 0), 0)[0].encode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        with Daemon(
            tmp_path / "d", f"outgoing_server 127.0.0.1:{port}", "add_domain remote_login,0",
            command="perdition.pop3",
        ) as proxy, Lines.to(proxy.port) as lines:  # fmt: skip
            for command in ("USER ann", "PASS x"):
                lines.hear()
                lines.say(command)
            with Lines(server.accept()[0]) as heard:
                heard.say("+OK")
                while not (said := heard.hear()).startswith("USER"):
                    heard.say("-ERR")
    assert said.encode() == b"USER ann@" + reverse


def test_all_servers_down_is_said_at_once(popmap: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        edit(popmap, ann=f"127.0.0.1:{silent.getsockname()[1]}")
        with daemon(tmp_path / "d", popmap, "greeting_timeout 1", "workers 1") as proxy:
            with Lines.to(proxy.port) as first:
                first.hear()
                assert first.ask("a LOGIN ann x")[-1].startswith("a NO [UNAVAILABLE]")
            started = time.monotonic()
            with Lines.to(proxy.port) as second:
                second.hear()
                assert second.ask("a LOGIN ann x")[-1].startswith("a NO [UNAVAILABLE]")
            assert time.monotonic() - started < 0.9


def test_logins_leave_from_the_addresses_that_are_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        with Daemon(
            tmp_path / "d", f"outgoing_server 127.0.0.1:{port}", "workers 1",
            "outgoing_address 127.0.0.7,127.0.0.8",
        ) as proxy:  # fmt: skip
            seen = set()
            for _ in range(2):
                with Lines.to(proxy.port) as lines:
                    lines.hear()
                    lines.say("a LOGIN ann x")
                    sock, peer = server.accept()
                    seen.add(peer[0])
                    sock.close()
    assert seen == {"127.0.0.7", "127.0.0.8"}


def explain(*words: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [BIN / "perdition.imap4", "-f", "/dev/null", *words], capture_output=True, timeout=20,
        check=False, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_explain_shows_each_step(pair: Pair, popmap: Path, tmp_path: Path) -> None:
    edit(popmap, ann=f"bert@127.0.0.1:{pair.one.port}", **{"192.0.2.1-bob": "192.0.2.9"})
    chosen = ("-M", "popmap", "-m", str(popmap), "-S", "remote_login", "-U")
    status, said = explain(*chosen, "--query_key", r"\U,\u", "--explain", "ann@x.org", "--probe")
    assert status == 0
    text = "\n".join(said)
    assert "query key ann@x.org: no such user (" in text
    assert f"query key ann: 127.0.0.1:{pair.one.port}, user bert (" in text
    assert "says '* OK [CAPABILITY" in text
    assert said[-1] == "name sent to the server: bert"
    words = ("--query_key", r"\i-\u", "--explain", "bob", "--explain_client", "192.0.2.1:7")
    status, said = explain(*chosen, *words)
    assert status == 0
    assert "  192.0.2.9:imap  192.0.2.9" in said
    with suppress(ValueError):
        said.remove("popmap: popmap")
    status, said = explain(*chosen, "--explain", "nobody")
    assert (status, said[-1]) == (
        1, "no route: the user has no server, and outgoing_server names none"
    )  # fmt: skip
    names = ("-A", "all", "-e", "x.org", "-S", "local_authentication", "--lower_case", "all")
    status, said = explain(*chosen, *names, "--authenticate_in", "--explain", "Ann")
    assert "name for the look-up: ann@x.org (" in "\n".join(said)
    assert "name for local authentication: ann@x.org" in said
    assert said[-1].startswith("no route")
    for address in ("[2001:db8::1]:7", "2001:db8::1"):
        status, said = explain(
            *chosen, "--query_key", r"\i.\p", "--explain", "bob", "--explain_client", address
        )
        port = 7 if "]" in address else 0
        assert f"query key 2001:db8::1.{port}: no such user (" in "\n".join(said)
    status, said = explain(*chosen, "--explain", "bob", "--explain_client", "mars:7")
    assert (status, len(said)) == (255, 1)
    status, said = explain(*chosen, "-c", "--explain", f"bob@127.0.0.1:{pair.one.port}", "--probe")
    assert f"server named by the user: 127.0.0.1:{pair.one.port} (" in "\n".join(said)
    status, said = explain("-M", "popmap", "-m", str(tmp_path / "none"), "--explain", "ann")
    assert status == 255
    assert said == [
        f"perdition.imap4: map_library popmap: {tmp_path}/none: No such file or directory"
    ]
