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
from typing import NamedTuple

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port

PASSWORD = "canary-pw"
USERS = ("ann", "bob", "cyd")


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
        for name, server in (("one", one), ("two", two)):
            for user in USERS:
                with imaplib.IMAP4("127.0.0.1", server.port) as imap:
                    imap.login(user, PASSWORD)
                    imap.create(f"this-is-{name}")
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


def home(port: int, user: str) -> str:
    """The server that a login by IMAP reaches: ``one`` or ``two``."""
    with imaplib.IMAP4("127.0.0.1", port) as imap:
        imap.login(user, PASSWORD)
        _, mailboxes = imap.list('""', "this-is-*")
        assert isinstance(mailboxes[0], bytes)
        return mailboxes[0].rsplit(b"-", 1)[1].decode()


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


def test_pop3_and_managesieve_go_the_same_way(pair: Pair, popmap: Path, tmp_path: Path) -> None:
    edit(popmap, ann=f"127.0.0.1:{pair.one.pop3}", bob=f"127.0.0.1:{pair.two.pop3}")
    with daemon(tmp_path / "d", popmap, command="perdition.pop3") as proxy:
        for user in ("ann", "bob"):
            pop = poplib.POP3("127.0.0.1", proxy.port)
            pop.user(user)
            assert pop.pass_(PASSWORD).startswith(b"+OK")
            pop.quit()
        lines = proxy.wait_for_log(r'^Auth:.* status="ok"', 2)
    assert [f":{pair.one.pop3}" in lines[0], f":{pair.two.pop3}" in lines[1]] == [True, True]
    edit(popmap, ann=f"127.0.0.1:{pair.two.sieve}")
    with daemon(tmp_path / "e", popmap, command="perdition.managesieve") as proxy:
        with Lines.to(proxy.port) as lines_:
            while not lines_.hear().startswith("OK"):
                pass
            secret = base64.b64encode(f"\0ann\0{PASSWORD}".encode()).decode()
            lines_.say(f'AUTHENTICATE "PLAIN" "{secret}"')
            while not (answer := lines_.hear()).startswith(("OK", "NO", "BYE")):
                pass
        assert answer.startswith("OK")
        assert f":{pair.two.sieve}" in proxy.wait_for_log(r'^Auth:.* status="ok"')[0]


def test_a_user_whom_no_map_knows_is_refused(pair: Pair, popmap: Path, tmp_path: Path) -> None:
    edit(popmap, ann=f"127.0.0.1:{pair.one.port}")
    with daemon(tmp_path / "d", popmap) as proxy, Lines.to(proxy.port) as lines:
        lines.hear()
        assert lines.ask("a LOGIN nobody x") == ["a NO failed: Could not determine server"]
        assert lines.ask(f"b LOGIN ann {PASSWORD}")[-1].startswith("b OK")


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


def test_a_dovecot_that_stops_fails_over_and_comes_back(
    pair: Pair, need: Callable[[str], str], folder: Path, popmap: Path, tmp_path: Path
) -> None:
    with Dovecot(need("dovecot"), folder / "d3", {"ann": PASSWORD}) as third:
        with imaplib.IMAP4("127.0.0.1", third.port) as imap:
            imap.login("ann", PASSWORD)
            imap.create("this-is-three")
        edit(popmap, ann=f"127.0.0.1:{third.port},127.0.0.1:{pair.two.port}")
        with daemon(tmp_path / "d", popmap, "server_retry 1") as proxy:
            assert home(proxy.port, "ann") == "three"
            third.process.send_signal(signal.SIGTERM)
            third.process.wait(20)
            started = time.monotonic()
            assert home(proxy.port, "ann") == "two"
            assert time.monotonic() - started < 3


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


def test_the_next_address_of_a_name_is_tried_soon_and_remembered(
    pair: Pair, popmap: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    """A name with an address that swallows connections; the daemon alone sees such a hosts file."""
    if os.getuid() != 0:
        pytest.skip("needs a mount namespace of its own")
    hosts = popmap.parent / "hosts"
    hosts.write_text("192.0.2.1 twofold.example\n127.0.0.1 twofold.example\n")
    edit(popmap, ann=f"twofold.example:{pair.one.port}")
    proxy = daemon(tmp_path / "d", popmap, "workers 1")
    mounts = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    proxy.wrapper = (need("unshare"), "-m", "sh", "-c", mounts, "sh")
    with proxy:
        started = time.monotonic()
        assert home(proxy.port, "ann") == "one"
        first = time.monotonic() - started
        started = time.monotonic()
        assert home(proxy.port, "ann") == "one"
        assert time.monotonic() - started < 1
    assert first < 5


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
    status, said = explain("-M", "popmap", "-m", str(tmp_path / "none"), "--explain", "ann")
    assert status == 255
    assert said == [
        f"perdition.imap4: map_library popmap: {tmp_path}/none: No such file or directory"
    ]
