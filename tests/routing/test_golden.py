"""Routes beside Perdition 2.2: options, maps and login names, and where each login arrives.

Every pair of daemons has the same options and the same map. The servers are one listener that all
loopback addresses reach; the password tells which login came, and so the address it came to and
the name it came with are compared.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.servers.daemon import BIN, Daemon
from tests.servers.lines import Lines
from tests.servers.perdition2 import perdition_2

Arrival = tuple[str, str]  # address, user name

NAMES = (
    "jo", "JO", "an@x.org", "An@X.Org", "eve@sub.x.org", "bob@y.org", "zoe::y", "plus+tag@x.org",
    "a@b@x.org", "@x.org", "tail@", "moved", "ported", "renamed", "unknown", "127.0.0.9",
    "jo@127.0.0.7", "j%", "o'hara", "x" * 100,
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
    ("--client_server_specification", "--lower_case", "all"): {"tail@", "jo@127.0.0.7"},
    ("--domain_delimiter", "::", "--strip_domain", "all"): set(),
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


def log_in(port: int, name: str, password: str) -> None:
    """Try once; the answer is in what the servers saw, or did not see."""
    with Lines.to(port) as lines:
        lines.hear()
        lines.say(f"USER {name}")
        lines.hear()
        lines.say(f"PASS {password}")
        lines.hear()


@contextmanager
def ours(folder: Path, port: int, options: tuple[str, ...]) -> Iterator[int]:
    words = [f"{a.lstrip('-')} '{b}'" for a, b in _pairs(options)]
    with Daemon(
        folder, f"outgoing_port {port}", "outgoing_server 127.0.0.1", "failure_delay 0",
        "workers 1", *words, command="perdition.pop3",
    ) as daemon:  # fmt: skip
        yield daemon.port


def _pairs(options: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    words = list(options)
    while words:
        name = words.pop(0)
        yield name, words.pop(0) if words and not words[0].startswith("--") else "on"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["gdbm", "bdb", "posix_regex", "popmap"])
def test_every_login_arrives_where_2_2_sends_it(
    kind: str, need: Callable[[str], str], servers: Servers, folder: Path, certificates: Path
) -> None:
    program = need("perdition")
    with ThreadPoolExecutor(4) as pool:

        def compare(number: int, options: tuple[str, ...]) -> list[str]:
            where = folder / f"{kind}{number}"
            where.mkdir()
            map_of_2_2, map_of_ours = write_map(kind, where, servers.port, need)
            theirs_options = ("--outgoing_server", "127.0.0.1", *map_of_2_2, *options)
            with (
                perdition_2(program, servers.port, certificates, *theirs_options) as theirs,
                ours(where, servers.port, (*map_of_ours, *options)) as own,
                ThreadPoolExecutor(20) as clients,
            ):
                for who, port in (("theirs", theirs), ("ours", own)):
                    for n, name in enumerate(NAMES):
                        clients.submit(log_in, port, name, f"{who}-{kind}-{number}-{n}")
            arrived = [who for who in servers.arrivals if who.startswith(f"ours-{kind}-{number}-")]
            assert len(arrived) > len(NAMES) / 4
            return [
                f"{' '.join(options)}: {name}: 2.2 {a}, ours {b}"
                for n, name in enumerate(NAMES)
                if (
                    (a := servers.arrivals.get(f"theirs-{kind}-{number}-{n}"))
                    == (b := servers.arrivals.get(f"ours-{kind}-{number}-{n}"))
                )
                is (name in OPTIONS[options])
            ]

        found = pool.map(compare, range(len(OPTIONS)), OPTIONS)
        assert [line for lines in found for line in lines] == []


def test_the_set_is_large() -> None:
    assert 4 * len(OPTIONS) * len(NAMES) >= 500
