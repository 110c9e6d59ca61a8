"""What a peer may do to harm: time, memory, bytes in the wrong place, secrets in the log."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perdition.errors import WireError
from perdition.protocols import TlsUse
from perdition.wire import imap4, managesieve, pop3
from perdition.wire.base import (
    Back,
    BackTerms,
    Event,
    Front,
    FrontTerms,
    Login,
    Outcome,
    Quit,
    Reason,
    Refused,
    StartTls,
)

COMMANDS = 250


@dataclass
class Talk:
    """What one protocol's peers say."""

    front: type[Front]
    back: type[Back]
    capability: str
    login: bytes
    harmless: bytes  # commands that are carried out, a line each
    tls: bytes
    until_tls: bytes  # what a server says up to our STARTTLS
    begin: bytes  # and then
    plain: bytes  # a login by SASL PLAIN, its response as %b


IMAP4 = Talk(
    imap4.Front, imap4.Back, "IMAP4rev1", b"a LOGIN user secret\r\n",
    b"a CAPABILITY\na NOOP\na ID NIL\n", b"a STARTTLS\r\n",
    b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n", b"flim07 OK go\r\n",
    b"a AUTHENTICATE PLAIN %b\r\n",
)  # fmt: skip
POP3 = Talk(
    pop3.Front, pop3.Back, "UIDL.USER", b"USER user\r\nPASS secret\r\n",
    b"CAPA\nUSER a\nUSER b\n", b"STLS\r\n",
    b"+OK hi\r\n+OK\r\nSTLS\r\n.\r\n", b"+OK go\r\n", b"AUTH PLAIN %b\r\n",
)  # fmt: skip
SIEVE = Talk(
    managesieve.Front, managesieve.Back, '"SASL" "PLAIN"',
    b'AUTHENTICATE "PLAIN" "AHVzZXIAc2VjcmV0"\r\n',
    b'CAPABILITY\nNOOP\nNOOP "x"\n', b"STARTTLS\r\n",
    b'"SASL" "PLAIN"\r\n"STARTTLS"\r\nOK\r\n', b"OK\r\n", b'AUTHENTICATE "PLAIN" "%b"\r\n',
)  # fmt: skip

every = pytest.mark.parametrize("talk", [IMAP4, POP3, SIEVE], ids=["imap4", "pop3", "managesieve"])


def front_of(talk: Talk, **terms: object) -> Front:
    front = talk.front(FrontTerms(b"ready", talk.capability, **terms))  # type: ignore[arg-type]
    front.take()
    return front


# -- time and memory --------------------------------------------------------------------------


@every
def test_answers_that_nobody_reads_do_not_add_up(talk: Talk) -> None:
    front = front_of(talk)
    event: Event | None = None
    lines = 0
    while event is None:
        event = front.receive(talk.harmless)
        lines += 3
    assert event == Quit("Too many commands")
    assert COMMANDS <= lines < 2 * COMMANDS
    assert len(front.take()) < COMMANDS * 150
    assert front.receive(talk.harmless) is None
    assert front.take() == b""


@every
def test_bad_commands_without_a_limit_have_one(talk: Talk) -> None:
    front = front_of(talk, bad_command_limit=0)
    assert front.receive(b"\n" * (COMMANDS - 1)) is None
    assert front.receive(b"\n") == Quit("Too many bad commands")


@every
def test_a_flood_behind_a_login_is_cut_short(talk: Talk) -> None:
    front = front_of(talk, bad_command_limit=0)
    assert isinstance(front.receive(talk.login), Login)
    while not front.full:
        assert front.receive(talk.harmless * 100) is None
    assert front.refused(Refused(Reason.REFUSED)) is None
    assert front.receive(b"") == Quit("Too many commands")
    assert front.unread() == b""


def _events(parts: list[bytes]) -> tuple[list[object], bytes]:
    front = imap4.Front(FrontTerms(b"ready", "IMAP4rev1", bad_command_limit=0))
    events: list[object] = [event for part in parts if (event := front.receive(part)) is not None]
    return events, front.take()


@pytest.mark.parametrize("size", [30_000, 60_000, 65_536, 70_000])
@pytest.mark.parametrize("step", [1000, 16384])
def test_what_is_read_past_is_counted_alike_however_it_is_cut(size: int, step: int) -> None:
    stream = b"a NOOP " + b"x" * size + b"\r\nb NOOP " + b"y" * 9000 + b"\r\nc NOOP\r\n"
    cut = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert _events(cut) == _events([stream])


# -- bytes in the wrong place -----------------------------------------------------------------


@every
def test_a_client_that_goes_on_in_clear_text_ends(talk: Talk) -> None:
    front = front_of(talk, tls=TlsUse.TLS)
    event = front.receive(talk.tls + talk.login)
    assert isinstance(event, Quit) and "in clear text" in event.why
    assert talk.login not in front.unread()


@every
def test_a_client_that_goes_on_in_clear_text_later_ends(talk: Talk) -> None:
    front = front_of(talk, tls=TlsUse.TLS)
    assert front.receive(talk.tls) == StartTls()
    assert front.receive(talk.login) is None
    event = front.secured()
    assert isinstance(event, Quit) and "in clear text" in event.why
    assert front.unread() == b""


def _back_at_tls(talk: Talk) -> Back:
    back = talk.back(Login(b"user", b"secret"), BackTerms(b"01234567", tls=TlsUse.TLS_FORCE))
    assert back.receive(talk.until_tls) is None
    assert talk.tls.strip().split()[-1] in back.take()
    return back


@every
def test_a_server_that_goes_on_in_clear_text_is_left(talk: Talk) -> None:
    with pytest.raises(WireError, match="in clear text"):
        _back_at_tls(talk).receive(talk.begin + talk.begin)


@every
def test_a_server_that_goes_on_in_clear_text_later_is_left(talk: Talk) -> None:
    back = _back_at_tls(talk)
    assert back.receive(talk.begin) == StartTls()
    assert back.receive(talk.begin) is None
    with pytest.raises(WireError, match="in clear text"):
        back.secured()
    assert back.take() == b""


@every
@pytest.mark.parametrize(
    "response",
    [
        b"AHVzZXIAc2VjcmV0DQpRVUlU",  # CR LF QUIT behind the password
        b"AHVzZXIKAHNlY3JldA==",  # LF behind the name
        b"AHVzZXIAc2VjcmV0AHg=",  # a fourth part
        b"AHVzZXIA",  # no password
        b"AABzZWNyZXQ=",  # no name
        b"AHVzZXIAc2VjcmV0=",  # no base64
        b"AHVz ZXIAc2VjcmV0",
        b"\xff\xfe",
    ],
)
def test_no_response_but_a_sound_one_is_a_login(talk: Talk, response: bytes) -> None:
    front = front_of(talk)
    assert front.receive(talk.plain % response) is None
    assert b"OK" not in front.take()


# An awkward name that a popmap may give, which no client can.
AWKWARD = [b"us\0er", b"us\rer", b"us\ner", b"user\r\nflim08 LOGOUT"]
GREETINGS: dict[str, tuple[type[Back], bytes]] = {
    "imap4": (imap4.Back, b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN%b] hi\r\n"),
    "pop3": (pop3.Back, b"+OK hi%b\r\n"),
    "managesieve": (managesieve.Back, b'"SASL" "PLAIN"\r\nOK "%b"\r\n'),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("kind", GREETINGS)
@pytest.mark.parametrize("more", [b"", b" LITERAL+", b" LOGINDISABLED"])
def test_no_control_byte_of_a_name_reaches_a_server(name: bytes, kind: str, more: bytes) -> None:
    back_kind, greeting = GREETINGS[kind]
    for login in (Login(name, b"secret"), Login(b"u", name), Login(b"u", b"secret", name)):
        back = back_kind(login, BackTerms(b"01234567"))
        outcome: Outcome | None = back.receive(greeting % more)
        assert isinstance(outcome, Refused) and outcome.reason is Reason.NO_MECHANISM
        assert back.take() == b""
        assert not back.logging_in


# -- the log ----------------------------------------------------------------------------------


@every
def test_a_password_in_the_wrong_place_is_not_shown(talk: Talk) -> None:
    front = front_of(talk, bad_command_limit=0)
    shown = b""

    def show(ours: bool, line: bytes) -> None:
        nonlocal shown
        shown += b"" if ours else line + b"\n"

    front.shown = show
    front.receive(
        b"LOGIN bob hunter2\r\nbob hunter2\r\na LOGN user hunter2\r\nhunter2\r\n"
        b"PASS hunter2\r\na APPEND hunter2\r\na hunter2 x\r\n"
    )
    assert b"***" in shown
    assert b"hunter2" not in shown
