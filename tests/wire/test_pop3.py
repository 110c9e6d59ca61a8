"""The POP3 grammars: dialogue files, limits, and properties over all inputs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.wire.dialogue import CUTS, play_back, play_front

from perdition.errors import WireError
from perdition.protocols import TlsUse
from perdition.wire.base import (
    Accepted,
    BackTerms,
    FrontTerms,
    Login,
    Quit,
    Reason,
    Refused,
    StartTls,
)
from perdition.wire.pop3 import Back, Front

HERE = Path(__file__).parent / "pop3"
TERMS = FrontTerms(b"ready", "UIDL.USER", tls=TlsUse.TLS, line_limit=512, pipeline_limit=4096)
BACK_TERMS = BackTerms(b"01234567", line_limit=1024, passed_limit=2048)
SKIPPED = 65536  # bytes of long lines that are read past
EARLY = Quit("Input behind STLS in clear text")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "front").iterdir()))
def test_front(name: str, cut: str) -> None:
    play_front(Front, HERE / "front" / f"{name}.txt", CUTS[cut])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "back").iterdir()))
def test_back(name: str, cut: str) -> None:
    play_back(Back, HERE / "back" / f"{name}.txt", CUTS[cut])


# -- TLS --------------------------------------------------------------------------------------


def test_what_comes_with_stls_in_clear_text_ends_the_connection() -> None:
    front = Front(TERMS)
    front.take()
    assert front.receive(b"STLS\r\nUSER mallory\r\n") == EARLY
    assert front.take() == b"-ERR Input behind STLS in clear text\r\n"
    assert front.receive(b"PASS x\r\n") is None


def test_what_comes_behind_stls_in_clear_text_ends_the_connection() -> None:
    front = Front(TERMS)
    front.take()
    assert front.receive(b"STLS\r\n") == StartTls()
    assert front.receive(b"USER mallory\r\n") is None
    assert front.take() == b"+OK Begin TLS negotiation\r\n"
    assert front.secured() == EARLY
    assert front.receive(b"") is None


def back_at_stls() -> Back:
    back = Back(Login(b"user", b"secret"), BackTerms(b"01234567", tls=TlsUse.TLS))
    assert back.receive(b"+OK hi\r\n+OK\r\nSTLS\r\n.\r\n") is None
    assert back.take() == b"CAPA\r\nSTLS\r\n"
    return back


def test_a_server_that_goes_on_in_clear_text_is_left() -> None:
    back = back_at_stls()
    with pytest.raises(WireError, match="clear text behind its answer to STLS"):
        back.receive(b"+OK begin\r\n+OK injected\r\n")


def test_a_server_that_goes_on_in_clear_text_later_is_left() -> None:
    back = back_at_stls()
    assert back.receive(b"+OK begin\r\n") == StartTls()
    assert back.receive(b"+OK injected\r\n") is None
    with pytest.raises(WireError, match="clear text behind its answer to STLS"):
        back.secured()
    assert back.take() == b""


# -- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 1000, 2 * SKIPPED])
def test_lines_too_long_are_read_past_up_to_a_bound(size: int) -> None:
    front = Front(FrontTerms(b"ready", "UIDL", bad_command_limit=0))
    front.take()
    assert front.receive(b"x" * 40_000 + b"\r\n") is None
    assert front.take() == b"-ERR Line too long\r\n"
    stream = b"y" * (SKIPPED - 40_002) + b"\n"
    event = None
    for at in range(0, len(stream), size):
        assert event is None
        event = front.receive(stream[at : at + size])
        assert len(front._buffer) <= 8192
    assert event == Quit("Too much input refused")
    assert front.take() == b"-ERR Line too long\r\n-ERR Too much input refused\r\n"


def test_a_name_too_long_for_a_reply_is_not_said() -> None:
    front = Front(FrontTerms(b"ready", "UIDL"))
    front.take()
    longest = b"x" * (512 - len(b"+OK USER  set\r\n"))
    front.receive(b"USER %b\r\n" % longest)
    assert front.take() == b"+OK USER %b set\r\n" % longest
    front.receive(b"USER %bx\r\n" % longest)
    assert front.take() == b"+OK USER set\r\n"
    assert front.receive(b"PASS y\r\n") == Login(longest + b"x", b"y")


def test_a_text_too_long_for_a_reply_is_cut() -> None:
    front = Front(FrontTerms(b"ready", "UIDL"))
    front.take()
    assert isinstance(front.receive(b"USER a\r\nPASS b\r\n"), Login)
    assert front.take() == b"+OK USER a set\r\n"
    assert front.refused(Refused(Reason.REFUSED, b"[AUTH] " + b"x" * 600)) is None
    reply = front.take()
    assert reply.startswith(b"-ERR [AUTH] xxx") and reply.endswith(b"x\r\n")
    assert len(reply) == 512


def test_a_front_that_is_held_says_when_it_is_full() -> None:
    front = Front(TERMS)
    assert isinstance(front.receive(b"USER user\r\nPASS secret\r\n"), Login)
    assert not front.full
    for _ in range(5):
        assert front.receive(b"x" * 1000) is None
    assert front.full
    front.accepted(Accepted())
    assert front.unread() == b"x" * 5000
    assert front.unread() == b""


@pytest.mark.parametrize("ahead", [True, False])
def test_a_response_goes_ahead_in_255_bytes_at_most(ahead: bool) -> None:
    # AUTH PLAIN, a blank, base64 of 180 bytes, CRLF: 253; three bytes more are four too many.
    password = b"x" * (180 - len(b"boss\0user\0") + (0 if ahead else 1))
    back = Back(Login(b"user", password, b"boss"), BACK_TERMS)
    back.receive(b"+OK hi\r\n+OK\r\nSASL PLAIN\r\n.\r\n")
    said = back.take().removeprefix(b"CAPA\r\n")
    assert len(said) == (253 if ahead else len(b"AUTH PLAIN\r\n"))


def test_a_server_that_goes_says_what_it_has_heard_by_then() -> None:
    back = Back(Login(b"user", b"secret"), BACK_TERMS)
    assert back.goodbye() == b""
    assert not back.logging_in
    assert back.lost().reason is Reason.NEGOTIATION
    back.receive(b"+OK hi\r\n")
    assert back.goodbye() == b"QUIT\r\n"
    assert back.logging_in
    back.receive(b"+OK\r\n")
    assert back.logging_in
    assert back.lost().reason is Reason.TEMPORARY


def test_a_goodbye_says_whether_to_come_back() -> None:
    front = Front(TERMS)
    front.take()
    front.goodbye("Too many connections, try again later", unavailable=True)
    assert front.take() == b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
    front.goodbye("Timeout: no login in time")
    assert front.take() == b"-ERR Timeout: no login in time\r\n"


# -- what the log may see -----------------------------------------------------------------------


def test_no_secret_is_shown() -> None:
    seen: list[tuple[bool, bytes]] = []
    front = Front(FrontTerms(b"ready", "UIDL", bad_command_limit=0))
    front.take()
    front.shown = lambda ours, line: seen.append((ours, line))
    for line in (
        b"USER user", b"USER user canary", b"canary", b"canary x", b"PASS canary", b"CAPA canary",
        b"AUTH PLAIN Y2FuYXJ5", b"AUTH LOGIN", b"Y2FuYXJ5", b"Y2FuYXJ5",
    ):  # fmt: skip
        if front.receive(line + b"\r\n") is not None:
            front.refused(Refused(Reason.REFUSED))
    front.take()
    back = Back(Login(b"user", b"canary"), BACK_TERMS)
    back.shown = front.shown
    assert back.receive(b"+OK\r\n+OK\r\n") is None
    back = Back(Login(b"user", b"canary" * 20, b"boss"), BACK_TERMS)
    back.shown = front.shown
    assert back.receive(b"+OK\r\n+OK\r\nSASL PLAIN\r\n.\r\n+ \r\n") is None
    shown = b"\n".join(line for _, line in seen)
    assert (False, b"USER user") in seen
    assert (True, b"PASS ***") in seen
    assert (True, b"AUTH PLAIN ***") in seen
    assert b"canary" not in shown
    assert b"Y2FuYXJ5" not in shown


# -- all inputs ---------------------------------------------------------------------------------

# Pieces of which clients make commands, good ones and others.
PIECES = st.sampled_from(
    [b"USER ", b"user\r\n", b"USER a\r\nPASS b\r\n", b"PASS ", b"x", b" ", b"\r\n", b"\n", b"\r",
     b"\0", b"AUTH ", b"PLAIN", b"LOGIN\r\n", b" AHVzZXIAc2VjcmV0\r\n", b"dXNlcg==\r\n", b"=\r\n",
     b"*\r\n", b"CAPA\r\n", b"STLS\r\n", b"QUIT", b"NOOP\r\n", b"x" * 300, b"y" * 20_000, b"\xff"]
)  # fmt: skip
STREAMS = st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=40).map(b"".join)


def talk(parts: list[bytes]) -> tuple[list[object], bytes, bytes]:
    """Events, what is said and what is left when each login is refused."""
    front = Front(TERMS)
    events: list[object] = []
    said = front.take()
    waiting = list(parts)
    while waiting:
        event = front.receive(waiting.pop(0))
        said += front.take()
        while event is not None:
            events.append(event)
            if isinstance(event, Quit):
                return events, said, b""
            if isinstance(event, StartTls):
                # All that is still to come was sent in clear text, whenever it arrives.
                front.receive(b"".join(waiting))
                waiting = []
                event = front.secured()
                if event is not None:
                    events.pop()
                    said = said.removesuffix(b"+OK Begin TLS negotiation\r\n")
            else:
                event = front.refused(Refused(Reason.REFUSED))
            event = event or front.receive(b"")
            said += front.take()
    return events, said, front.unread()


@given(STREAMS, st.data())
@settings(max_examples=400, deadline=None)
def test_the_cut_of_a_stream_does_not_matter(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    bounds = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in pairwise(bounds)]
    events, said, left = talk([stream])
    assert talk(parts)[:2] == (events, said)
    # Of a line too long, it depends on the cut what is still there to be thrown away.
    if b"Line too long" not in said:
        assert talk(parts)[2] == left


@given(st.lists(st.binary(max_size=2000), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_event_or_nothing_and_kept_within_bounds(parts: list[bytes]) -> None:
    front = Front(TERMS)
    for part in parts:
        event = front.receive(part)
        if event is not None:
            assert isinstance(event, Quit | Login | StartTls)
            break
        assert len(front.take()) < 100_000
        assert len(front._buffer) < TERMS.line_limit


def answers(parts: list[bytes]) -> tuple[list[object], bytes, bytes]:
    """Outcomes, what is said and what is left, of a back that wants TLS and has a name to check."""
    terms = BackTerms(b"01234567", TlsUse.TLS, line_limit=256, passed_limit=512)
    back = Back(Login(b"user", b"secret", b"boss"), terms)
    outcomes: list[object] = []
    waiting = list(parts)
    try:
        while waiting:
            outcome = back.receive(waiting.pop(0))
            if outcome is None:
                continue
            outcomes.append(outcome)
            back.receive(b"".join(waiting))
            waiting = []
            if isinstance(outcome, StartTls):
                outcomes.pop()
                back.secured()
                outcomes.append(outcome)
    except WireError as error:
        return [*outcomes, str(error)], back.take(), b""
    return outcomes, back.take(), back.unread()


REPLIES = st.sampled_from(
    [b"+OK\r\n", b"+OK hi\r\n", b"-ERR\r\n", b"-ERR [IN-USE] x\r\n", b"+ \r\n", b"+\r\n",
     b"STLS\r\n", b"SASL PLAIN\r\n", b".\r\n", b"\n", b"\r", b"x" * 100, b"01234567",
     b"-ERR [", b"]", b"\0"]
)  # fmt: skip
GOOD = st.sampled_from([b"", b"+OK hi\r\n+OK\r\n", b"+OK hi\r\n+OK\r\nSASL PLAIN\r\n.\r\n"])


@given(GOOD, st.lists(st.one_of(REPLIES, st.binary(max_size=20)), max_size=30), st.data())
@settings(max_examples=400, deadline=None)
def test_the_cut_of_a_servers_stream_does_not_matter(
    start: bytes, parts: list[bytes], data: st.DataObject
) -> None:
    stream = start + b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    bounds = [0, *cuts, len(stream)]
    assert answers([stream[a:b] for a, b in pairwise(bounds)]) == answers([stream])


@given(GOOD, st.lists(st.binary(max_size=500), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_server_gives_an_outcome_or_a_wire_error(start: bytes, parts: list[bytes]) -> None:
    back = Back(Login(b"user", b"secret", b"boss"), BACK_TERMS)
    try:
        for part in (start, *parts):
            if back.receive(part) is not None:
                break
            assert len(back.take()) < 1000
            assert len(back._buffer) < BACK_TERMS.line_limit
    except WireError:
        pass
    assert isinstance(back.lost(), Refused)


# NUL, CR and LF can't be in a name or password.
WORD = st.binary(max_size=200).map(
    lambda data: data.replace(b"\0", b"").replace(b"\r", b"").replace(b"\n", b"")
)


@given(WORD.filter(bool), WORD, WORD)
@settings(max_examples=400, deadline=None)
def test_what_a_back_says_a_front_understands(
    user: bytes, password: bytes, authorisation: bytes
) -> None:
    login = Login(user, password, authorisation)
    assume(authorisation != user)  # which says nothing
    # RFC 4616: a password has a character at least.
    assume(password or not (authorisation or b" " in user))
    back = Back(login, BACK_TERMS)
    front = Front(FrontTerms(b"ready", "UIDL.USER"))
    for _ in range(4):
        assert back.receive(front.take()) is None
        event = front.receive(back.take())
        if event is not None:
            assert event == login
            return
    raise AssertionError("no login came out")
