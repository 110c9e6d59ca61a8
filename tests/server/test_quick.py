"""Peers, log and counts see what they would see if every session had its dialogue.

Each play is played twice: before a daemon as it is, and before one without shortcuts.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.server.quick_plays import ASKS, GREETS, OPENED, PLAYS
from tests.servers.lines import Lines
from tests.servers.plays import SLOW, Stage

USERS = """\
ann:127.0.0.1:GOOD
bob:127.0.0.1:NOBODY
cat:127.0.0.1:NOBODY,127.0.0.1:GOOD
dan:127.0.0.1:99999
eve:127.0.0.1:FULL
fay:nowhere.invalid:GOOD
gus:localhost:GOOD
hal:jim@127.0.0.1:GOOD
"""
COMMAND = """\
#!/bin/sh
read -r name
sleep 0.2
[ "$name" = ann ] || exit 2
echo 127.0.0.1:GOOD
"""
FILES = {"users": USERS, "map": COMMAND}
COMMON = (
    "outgoing_server 127.0.0.1:GOOD", "server_retry 0", "failure_delay 0", "debug",
    "log_passwd always",
)  # fmt: skip
POPMAP = (*COMMON, "map_library popmap", "map_library_opt HERE/users")
TLS = (*COMMON, "ssl_mode ssl_listen", "ssl_cert_file CERTIFICATES/cert.pem",
       "ssl_key_file CERTIFICATES/key.pem")  # fmt: skip
STAGES = {
    "plain": POPMAP,
    "untold": (
        *POPMAP,
        "forward_client never",
        "server_resp_line",
        "failed_login_limit 1",
        "server_retry 10",
    ),
    "names": (
        *POPMAP,
        "username_from_database",
        "client_server_specification",
        "outgoing_port GOOD",
    ),
    "no way out": (*POPMAP, "outgoing_address 192.0.2.1", "server_connection_limit 1"),
    "header": (*POPMAP, "proxy_protocol_networks 127.0.0.0/8"),
    "slow map": (
        *COMMON,
        "map_library command",
        "map_library_opt /bin/sh HERE/map",
        "shutdown_timeout 1",
    ),
    "server limit": (*POPMAP, "server_connection_limit 1"),
    "address limit": (*POPMAP, "address_connection_limit 1"),
    "delay": (*POPMAP, "failure_delay 1", "failure_delay_limit 1"),
    "tls": TLS,
    "tls patience": (*TLS, "authenticate_timeout 1"),
    "timeouts": (*POPMAP, "connect_timeout 1", "greeting_timeout 1", "login_timeout 1"),
    "patience": (*POPMAP, "authenticate_timeout 1"),
}


Pair = tuple[Stage, Stage]


def stage_at(folder: Path, certificates: Path, name: str, changes: str) -> Stage:
    """A daemon with the options of that name."""
    options = [option.replace("CERTIFICATES", str(certificates)) for option in STAGES[name]]
    where = folder / f"{name.replace(' ', '-')}{len(list(folder.iterdir()))}"
    stage = Stage(where, options, FILES, changes)
    if name.startswith("tls"):
        stage.context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    return stage


@pytest.fixture(scope="module")
def pair(folder: Path, certificates: Path) -> Iterator[Callable[[str], Pair]]:
    """Give the two daemons of a name; they stay until those of another are wanted."""
    with ExitStack() as running:
        standing: dict[str, Pair] = {}

        def daemons(name: str) -> Pair:
            if name not in standing:
                running.close()
                standing.clear()
                as_it_is = stage_at(folder, certificates, name, "")
                with_dialogue = stage_at(folder, certificates, name, SLOW)
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(running.enter_context, (as_it_is, with_dialogue)))
                standing[name] = as_it_is, with_dialogue
            return standing[name]

        yield daemons


@pytest.mark.parametrize(
    ("stage", "name"), [(stage, name) for stage, plays in PLAYS.items() for name in plays]
)
def test_nobody_sees_a_difference(pair: Callable[[str], Pair], stage: str, name: str) -> None:
    text = PLAYS[stage][name]
    with ThreadPoolExecutor(2) as pool:
        quick, slow = pool.map(lambda daemon: daemon.play(text), pair(stage))
    assert quick.heard == slow.heard
    assert quick.log == slow.log
    assert quick.counts == slow.counts
    assert quick.answers == slow.answers
    assert not [line for line in quick.log if "internal error" in line]


# -- it is the quick way that is compared -------------------------------------------------------

# A daemon whose sessions end as soon as they need a dialogue.
NO_DIALOGUE = """
from perdition.session.login import Session
async def end(self, *_):
    self._finish("a dialogue")
Session._dialogue = end
"""
QUICK = {
    "plain": ("login first", "who the client is", "answers in pieces", "capability then login",
              "authenticate plain in two steps", "a line ahead of the verdict"),
    "tls": ("login first", "capability first"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_a_usual_login_takes_no_dialogue(folder: Path, certificates: Path, name: str) -> None:
    with stage_at(folder, certificates, name, NO_DIALOGUE) as stage:
        for play in QUICK[name]:
            assert "(a dialogue)" not in str(stage.play(PLAYS[name][play]).log)
        unusual = stage.play("client < ready\nclient: a LOGIN ann s\\xe9t")
        assert "(a dialogue)" in str(unusual.log)


# -- in other circumstances ---------------------------------------------------------------------

CIRCUMSTANCES = {
    "sockets take five bytes at first": """
import perdition.session.quick as quick
quick.untaken = lambda sock, data: data[sock.send(data[:5]):]
""",
    "sockets take nothing at first": """
import perdition.session.quick as quick
quick.untaken = lambda sock, data: data
""",
    "each batch is a large one": """
import perdition.log as log, perdition.session.poller as poller
poller._FEW, log._WAITING = 0, 1
""",
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_nor_in_other_circumstances(folder: Path, certificates: Path, name: str) -> None:
    with (
        stage_at(folder, certificates, "plain", CIRCUMSTANCES[name]) as quick,
        stage_at(folder, certificates, "plain", SLOW) as slow,
        ThreadPoolExecutor(2) as pool,
    ):
        for text in PLAYS["plain"].values():
            seen, wanted = pool.map(lambda daemon, text=text: daemon.play(text), (quick, slow))
            assert seen == wanted


# -- faults -------------------------------------------------------------------------------------

FAULT = """
from perdition.session.routing import Routing
async def fault(*_):
    raise LookupError
Routing.find = fault
"""


@pytest.mark.parametrize(
    "also",
    ["", SLOW],
    ids=["as it is", "with a dialogue"],
)
def test_a_fault_costs_its_session_at_once(folder: Path, certificates: Path, also: str) -> None:
    with (
        stage_at(folder, certificates, "slow map", FAULT + also) as stage,
        Lines.to(stage.port) as client,
    ):
        client.sock.settimeout(1)
        client.hear()
        client.say("a LOGIN ann secret")
        assert client.hear() == ""
        stage.wait_for_log(r"^internal error \(session\): LookupError")


FAULTS = {
    "quick.Quick.greet": "client is gone",
    "quick.Quick._server_says": f"{ASKS}\n{GREETS}\nclient is gone",
    "side.Side._readable": "client < ready\nclient: b CAPABILITY\nclient < b OK\nclient: c NOOP\n"
    "client is gone",
    "relay.Flow.__call__": f"{OPENED}\nserver: flim07 OK in\nclient < a OK\nclient: z NOOP\n"
    "client is gone",
}


@pytest.mark.parametrize("where", FAULTS)
def test_so_does_one_in_any_callback(folder: Path, certificates: Path, where: str) -> None:
    module, name, function = where.split(".")
    changes = f"""
from perdition.session.{module} import {name}
def fault(self):
    raise LookupError
{name}.{function} = fault
"""
    with stage_at(folder, certificates, "plain", changes) as stage:
        log = stage.play(FAULTS[where]).log
        assert [line for line in log if line.startswith("internal error (session): LookupError")]
