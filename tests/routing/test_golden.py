"""Routes beside Perdition 2.2: options, maps and login names, and where each login arrives.

Every pair of daemons has the same options and the same map. The servers are one listener that all
loopback addresses reach; the password tells which login came, and so the address it came to, the
name it came with and the name that is logged are compared.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.popmap import nis
from tests.servers.daemon import BIN, Daemon
from tests.servers.lines import Lines
from tests.servers.perdition2 import perdition_2

Arrival = tuple[str, str]  # address, user name
Outcome = tuple[Arrival | None, str]  # and the name in the log

NAMES = (
    "jo", "JO", "an@x.org", "An@X.Org", "eve@sub.x.org", "bob@y.org", "zoe::y", "plus+tag@x.org",
    "a@b@x.org", "@x.org", "tail@", "moved", "ported", "renamed", "unknown", "127.0.0.9",
    "jo@127.0.0.7", "j%", "o'hara", "x" * 100, "an::x.org", "a::b::x.org", "::x.org", "tail::",
    "jo-at-x.org",
)  # fmt: skip

# Options -> names for which ours differs from 2.2, and has to.
OPTIONS: dict[tuple[str, ...], set[str]] = {
    (): set(),
    ("--strip_domain", "all"): set(),
    ("--strip_domain", "remote_login"): set(),
    ("--strip_domain", "servername_lookup", "--lower_case", "servername_lookup"): set(),
    ("--add_domain", "all", "--explicit_domain", "x.org"): set(),
    ("--add_domain", "remote_login", "--explicit_domain", "X.Org", "--lower_case", "all"): set(),
    ("--strip_domain", "all", "--add_domain", "all", "--explicit_domain", "y.org"): set(),
    ("--username_from_database",): set(),
    ("--username_from_database", "--strip_domain", "remote_login"): set(),
    ("--query_key", r"\U,\u,\D\d"): set(),
    ("--query_key", r"\d\D\u,x\\y,\u"): set(),
    ("--client_server_specification",): set(),
    # 2.2 sends the server's part along when a rule has changed the name; without a rule it cuts it
    # off, and so does ours always.
    ("--client_server_specification", "--lower_case", "all"): {
        name for name in NAMES if "@" in name
    },
    ("--domain_delimiter", "::", "--strip_domain", "all"): set(),
}  # fmt: skip

# More of them, before gdbm; those with ports in keys before regular expressions, too.
MORE_OPTIONS: dict[tuple[str, ...], set[str]] = {
    ("--lower_case", "servername_lookup"): set(),
    ("--lower_case", "remote_login"): set(),
    ("--strip_domain", "servername_lookup"): set(),
    ("--strip_domain", "local_authentication", "--lower_case", "local_authentication"): set(),
    ("--add_domain", "servername_lookup", "--explicit_domain", "x.org"): set(),
    ("--add_domain", "all,2", "--explicit_domain", "mail.x.org"): set(),
    ("--domain_delimiter", "::", "--add_domain", "all", "--explicit_domain", "x.org"): set(),
    ("--domain_delimiter", "-at-", "--strip_domain", "servername_lookup,remote_login"): set(),
    ("--domain_delimiter", "::", "--username_from_database"): set(),
    ("--domain_delimiter", "::", "--query_key", r"\u,\u\D"): set(),
    # 2.2's \d begins in the middle of a long delimiter.
    ("--domain_delimiter", "::", "--query_key", r"\d,\u\d"): {
        "an::x.org", "a::b::x.org", "::x.org", "tail::",
    },
    ("--domain_delimiter", "::", "--client_server_specification"): set(),
    ("--query_key", r"\i-\u,\I-\U"): set(),
    ("--query_key", r"\I\D\i,\U"): set(),
    ("--query_key", r"\p.\P.\U,\u"): set(),
    ("--query_key", r"\\\u,\U\\"): set(),
    ("--query_key", r"\u,\U", "--strip_domain", "remote_login", "--username_from_database"): set(),
    ("--query_key", r"\U", "--lower_case", "all", "--strip_domain", "servername_lookup"): set(),
    ("--client_server_specification", "--username_from_database"): set(),
    ("--client_server_specification", "--strip_domain", "all"): set(),
    ("--client_server_specification", "--query_key", r"x\U,\U"): set(),
}  # fmt: skip
# The domain is the reverse name of the address reached, which a hosts file of their own tells both.
REVERSE_NAME = "mx.mail.x.org"
REVERSE_OPTIONS: dict[tuple[str, ...], set[str]] = {
    ("--add_domain", "all,0"): set(),
    ("--add_domain", "all"): set(),
    ("--add_domain", "all,2"): set(),
    ("--add_domain", "remote_login,3", "--strip_domain", "all"): set(),
    ("--add_domain", "all,9"): set(),
}  # fmt: skip

MAP = """\
jo:127.0.0.2
jo@x.org:127.0.0.3
an@x.org:127.0.0.4
An@X.Org:127.0.0.5
@x.org:127.0.0.6
x.org@an:127.0.0.7
bob:127.0.0.8
bob@y.org:127.0.0.9
moved:other@127.0.0.2
renamed:new@dom.org@127.0.0.3:PORT
ported:127.0.0.4:PORT
a@b:127.0.0.5
eve:127.0.0.6
o'hara:127.0.0.7
zoe:127.0.0.2
tail:127.0.0.4
x.org:127.0.0.8
127.0.0.1-jo:127.0.0.8
127.0.0.1@127.0.0.1:127.0.0.9
\\jo:127.0.0.3
jo\\:127.0.0.4
jo@mail.x.org:127.0.0.7
jo@mx.mail.x.org:127.0.0.8
xjo:127.0.0.9
"""
# (A colon in a user's part makes 2.2 lose the server; ours takes the port behind the last one.)
REGEX = r"""
"^jo$" 127.0.0.2
"^[aA]n@" 127.0.0.4
"^([^:]+)@y\\.org$" "$1@127.0.0.8"
"@x\\.org$" 127.0.0.6
"^ported" 127.0.0.4:PORT
"^(ren)(amed)$" "$2$1@127.0.0.3:PORT"
"tag" 127.0.0.5
"^[0-9]+\\.[0-9]+\\.(jo|moved)$" 127.0.0.9
"^127[0-9.]+-jo$" 127.0.0.8
"^127[0-9.]+@127[0-9.]+$" 127.0.0.3
"^.jo$" 127.0.0.7
"^x\\.org$" 127.0.0.8
"^tail$" 127.0.0.4
"^.*::.*$" 127.0.0.5
"^.*@mail" 127.0.0.4
"""


class Servers:
    """POP3 servers on all loopback addresses at once. A context that ends with them."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("0.0.0.0", 0), backlog=256)
        self.port = int(self._listening.getsockname()[1])
        self.arrivals: dict[str, Arrival] = {}  # by password
        self._thread = threading.Thread(target=self._serve)
        self._talks = ThreadPoolExecutor(64)

    def __enter__(self) -> Servers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self._talks.shutdown()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self._talks.submit(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        with Lines(sock) as lines, suppress(OSError):
            lines.say("+OK ready")
            user = ""
            while command := lines.hear():
                word, _, rest = command.partition(" ")
                if word == "USER":
                    user = rest
                elif word == "PASS":
                    self.arrivals[rest] = (sock.getsockname()[0], user)
                lines.say("+OK" if word in ("USER", "PASS", "QUIT") else "-ERR")


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


Chosen = tuple[str, ...]  # map_library and map_library_opt as options


def write_map(
    kind: str, folder: Path, port: int, need: Callable[[str], str]
) -> tuple[Chosen, Chosen]:
    """A map, for each written by the tool of the other; how 2.2 and how ours is told of it."""

    def chosen(library: str, path: Path) -> Chosen:
        return ("--map_library", library, "--map_library_opt", str(path))

    path, text = folder / "map", folder / "text"
    if kind == "posix_regex":
        path.write_text(REGEX.replace("PORT", str(port)))
    else:
        text.write_text(MAP.replace("PORT", str(port)))
        tool = "makebdb" if kind == "bdb" else "makegdbm"
        for maker, made in ((need(tool), path), (str(BIN / tool), folder / "map-of-ours")):
            with text.open() as source:
                subprocess.run([maker, made], stdin=source, check=True, timeout=20)
    of_2_2 = "gdbm" if kind == "popmap" else kind
    library = f"libperditiondb_{of_2_2}.so.0"
    if kind == "posix_regex":
        return chosen(library, path), chosen(library, path)
    own = chosen("popmap", text) if kind == "popmap" else chosen(library, path)
    return chosen(library, folder / "map-of-ours"), own


def log_in(port: int, name: str, password: str) -> int:
    """Try once; give our port. The answer is in what the servers saw, or did not see."""
    with Lines.to(port) as lines:
        lines.hear()
        lines.say(f"USER {name}")
        lines.hear()
        lines.say(f"PASS {password}")
        lines.hear()
        return int(lines.sock.getsockname()[1])


@contextmanager
def ours(
    folder: Path, port: int, options: tuple[str, ...], wrapper: tuple[str, ...]
) -> Iterator[int]:
    words = [f"{a.lstrip('-')} '{b}'" for a, b in _pairs(options)]
    daemon = Daemon(
        folder, f"outgoing_port {port}", "outgoing_server 127.0.0.1", "failure_delay 0",
        "workers 1", *words, command="perdition.pop3",
    )  # fmt: skip
    daemon.wrapper = wrapper
    with daemon:
        yield daemon.port


def _pairs(options: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    words = list(options)
    while words:
        name = words.pop(0)
        yield name, words.pop(0) if words and not words[0].startswith("--") else "on"


def logged(path: Path) -> dict[int, str]:
    """A client's port -> the names in the Auth lines of a log."""
    found: dict[int, str] = {}
    for port, name in re.findall(
        r'Auth: 127\.0\.0\.1:(\d+)->.*? authentication_id="(.*?)" ', path.read_text()
    ):
        found[int(port)] = name
    return found


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["gdbm", "bdb", "posix_regex", "popmap"])
def test_every_login_arrives_where_2_2_sends_it(
    kind: str, need: Callable[[str], str], servers: Servers, folder: Path, certificates: Path
) -> None:
    program = need("perdition")
    hosts, wrapper = folder / "hosts", tuple[str, ...]()
    options_of = OPTIONS
    if kind == "gdbm":
        options_of = OPTIONS | MORE_OPTIONS
    elif kind == "posix_regex":
        # Ports are in no key of a file, but in expressions.
        options_of = OPTIONS | {
            o: names for o, names in MORE_OPTIONS.items() if r"\p" in "".join(o)
        }
    if kind == "gdbm" and os.getuid() == 0:  # they need a mount namespace
        options_of = options_of | REVERSE_OPTIONS
        hosts.write_text(f"127.0.0.1 {REVERSE_NAME}\n")
        mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        wrapper = (need("unshare"), "-m", "sh", "-c", mount, "sh")
    with ThreadPoolExecutor(4) as pool:

        def compare(number: int, options: tuple[str, ...]) -> list[str]:
            where = folder / f"{kind}{number}"
            where.mkdir()
            map_of_2_2, map_of_ours = write_map(kind, where, servers.port, need)
            theirs_options = ("--outgoing_server", "127.0.0.1", *map_of_2_2, *options)
            ports: dict[tuple[str, str], Future[int]] = {}
            with (
                perdition_2(
                    program, servers.port, certificates, *theirs_options,
                    log=where / "log-of-theirs", wrapper=wrapper,
                ) as theirs,
                ours(where, servers.port, (*map_of_ours, *options), wrapper) as own,
                ThreadPoolExecutor(20) as clients,
            ):  # fmt: skip
                for who, port in (("theirs", theirs), ("ours", own)):
                    for name in NAMES:
                        word = f"{who}-{kind}-{number}-{NAMES.index(name)}"
                        ports[who, name] = clients.submit(log_in, port, name, word)
            logs = {"theirs": logged(where / "log-of-theirs"), "ours": logged(where / "log")}

            def outcome(who: str, name: str) -> Outcome:
                arrival = servers.arrivals.get(f"{who}-{kind}-{number}-{NAMES.index(name)}")
                return arrival, logs[who].get(ports[who, name].result(), "")

            arrived = [name for name in NAMES if outcome("ours", name)[0]]
            assert len(arrived) > len(NAMES) / 4
            for who, lines in logs.items():
                silent = [name for name in NAMES if ports[who, name].result() not in lines]
                assert not silent, (who, options, (where / "log").read_text()[-3000:])
            return [
                f"{' '.join(options)}: {name}: 2.2 {a}, ours {b}"
                for name in NAMES
                if ((a := outcome("theirs", name)) == (b := outcome("ours", name)))
                is (name in options_of[options])
            ]

        found = pool.map(compare, range(len(options_of)), options_of)
        different = [line for lines in found for line in lines]
        assert different == [], "\n".join(different)


def test_a_nis_map_sends_everybody_where_2_2_sends_them(
    need: Callable[[str], str], folder: Path, certificates: Path
) -> None:
    names = ("jo", "an@x.org", "moved", "unknown", "J\u00fcrgen", "a@b@x.org", "-d")
    entries = {b"jo": b"127.0.0.2", b"an@x.org": b"127.0.0.4", b"moved": b"other@127.0.0.3",
               b"a@b@x.org": b"127.0.0.5", b"-d": b"127.0.0.6"}  # fmt: skip
    domain = nis.domain()
    domain.fill(entries)
    domain.start()
    where = folder / "nis"
    where.mkdir()
    command = (sys.executable, "-m", "tests.routing.nis_logins", need("perdition"))
    inside = ("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(ROOT), *command)
    done = domain.run(*inside, str(where), str(certificates), *names, whole=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    for name, (theirs, own) in zip(names, found, strict=True):
        assert own == theirs, name
        server = entries.get(name.encode(), b"127.0.0.1").rpartition(b"@")[2]
        assert own == [server.decode(), name]


def test_the_set_is_large() -> None:
    """Without those that are before two maps, and those that need root."""
    assert (4 * len(OPTIONS) + len(MORE_OPTIONS)) * len(NAMES) >= 1900
