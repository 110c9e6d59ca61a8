"""docs/protocols.md says what is so: its commands, mechanisms and codes are played."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdition.protocols import TlsUse
from perdition.wire import imap4, managesieve, pop3, sasl
from perdition.wire.base import Back, BackTerms, Front, FrontTerms, Login, Quit, Reason, Refused

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocols.md").read_text()

KINDS: dict[str, tuple[type[Front], type[Back], str]] = {
    "IMAP4": (imap4.Front, imap4.Back, "IMAP4rev1 AUTH=PLAIN"),
    "POP3": (pop3.Front, pop3.Back, "UIDL.USER"),
    "ManageSieve": (
        managesieve.Front,
        managesieve.Back,
        '"IMPLEMENTATION" "perdition"  "SASL" "PLAIN"',
    ),
}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its first two lines."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def code(cell: str) -> str:
    """What stands between back quotes; blanks count."""
    return cell.strip("`")


READING = rows("Read against the RFCs")
HARM = rows("Harm a peer may do")


@pytest.mark.parametrize("row", READING + HARM, ids=lambda row: row[0][:40])
def test_every_test_that_is_named_exists(row: list[str]) -> None:
    names = re.findall(r"`([^`]+)`", row[-1])
    assert names or row[-1] == "–"
    for name in names:
        path, _, function = name.partition("::")
        folder = ROOT / "tests" / ("" if path.startswith("server/") else "wire")
        if function:
            assert f"\ndef {function}(" in (folder / f"{path}.py").read_text(), name
        else:
            assert (folder / f"{path}.txt").is_file(), name


@pytest.mark.parametrize("row", READING, ids=lambda row: row[0])
def test_every_demand_has_a_state_and_a_reason(row: list[str]) -> None:
    _, demand, state, how, tests = row
    assert demand
    assert state in {"met", "differs", "n/a", "not met"}
    assert how or state == "met"
    assert tests != "–" or state in {"n/a", "not met"}


@pytest.mark.parametrize(
    ("protocol", "command", "reply"), rows("Commands before the login"), ids=lambda cell: cell
)
def test_a_command_is_answered_as_the_table_says(protocol: str, command: str, reply: str) -> None:
    kind, _, capability = KINDS[protocol]
    front = kind(FrontTerms(b"ready", capability, tls=TlsUse.TLS))
    front.take()
    event = front.receive(code(command).encode() + b"\r\n")
    said = front.take().decode()
    if reply == "the server's verdict":
        assert event == Login(b"user", b"secret")
        assert said == ""
    elif reply.startswith("nothing"):
        assert event is None
        assert said == ""
    else:
        start = code(reply)
        assert said.startswith(start.removesuffix(" …").removesuffix("…"))
        assert start.endswith("…") or "\r\n" in said.removeprefix(start)[:2]
        assert isinstance(event, Quit) == (code(command).split()[-1] in {"LOGOUT", "QUIT"})


def test_the_mechanisms_are_those_of_the_table() -> None:
    names = [row[0].split()[0].encode() for row in rows("SASL mechanisms")]
    assert names == list(sasl.MECHANISMS)


def _refuse(protocol: str, said: str) -> tuple[Refused, bytes]:
    """What a server's refusal is to us, and what a client hears of it."""
    kind, back_kind, capability = KINDS[protocol]
    back = back_kind(Login(b"user", b"secret"), BackTerms(b"01234567"))
    talk = {
        "IMAP4": f"* OK [CAPABILITY IMAP4rev1] hi\r\nflim07 NO {said} no\r\n",
        "POP3": f"+OK hi\r\n+OK\r\n-ERR {said} no\r\n",
        "ManageSieve": f'"SASL" "PLAIN"\r\nOK\r\nNO {said} "no"\r\n',
    }
    outcome = None
    for line in talk[protocol].encode().splitlines(keepends=True):
        outcome = back.receive(line)
    assert isinstance(outcome, Refused)
    front = kind(FrontTerms(b"ready", capability))
    first = {
        "IMAP4": b"a LOGIN user secret\r\n",
        "POP3": b"USER user\r\nPASS secret\r\n",
        "ManageSieve": b'AUTHENTICATE "PLAIN" "AHVzZXIAc2VjcmV0"\r\n',
    }
    assert isinstance(front.receive(first[protocol]), Login)
    front.take()
    assert front.refused(outcome) is None
    return outcome, front.take()


@pytest.mark.parametrize(
    ("protocol", "said", "meaning"),
    rows("Response codes of a server that refuses"),
    ids=lambda cell: cell,
)
def test_a_code_is_understood_and_passes(protocol: str, said: str, meaning: str) -> None:
    outcome, heard = _refuse(protocol, code(said))
    assert outcome.reason is {"temporary": Reason.TEMPORARY, "refused": Reason.REFUSED}[meaning]
    assert f" {code(said)} ".encode() in heard


@pytest.mark.parametrize(
    ("protocol", "said"), [("IMAP4", "[X-OWN]"), ("POP3", "[X-OWN]"), ("ManageSieve", "(X-OWN)")]
)
def test_a_code_that_nobody_knows_passes(protocol: str, said: str) -> None:
    outcome, heard = _refuse(protocol, said)
    assert outcome.reason is Reason.REFUSED
    assert f" {said} ".encode() in heard
