"""The IMAP4 grammars: dialogue files, and properties over all inputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.wire.dialogue import CUTS, play_back, play_front
from tests.wire.properties import (
    PARTS,
    WORD,
    cuts,
    gives_an_outcome,
    keeps_within_bounds,
    talk,
    understand_each_other,
)

from perdition.wire import imap4, imap4_back
from perdition.wire.base import Accepted, BackTerms, FrontTerms, Login
from perdition.wire.imap4 import Back, Front

HERE = Path(__file__).parent / "imap4"
TERMS = FrontTerms(b"ready", "IMAP4rev1", line_limit=512, literal_limit=256, pipeline_limit=4096)
BACK_TERMS = BackTerms(b"01234567", line_limit=1024, passed_limit=2048)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "front").iterdir()))
def test_front(name: str, cut: str) -> None:
    play_front(Front, HERE / "front" / f"{name}.txt", CUTS[cut])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "back").iterdir()))
def test_back(name: str, cut: str) -> None:
    play_back(Back, HERE / "back" / f"{name}.txt", CUTS[cut])


# Pieces of which clients make commands, good ones and others.
PIECES = st.sampled_from(
    [b"a ", b"b NOOP\r\n", b"LOGIN ", b"user ", b'"us\\"er" ', b"{3}\r\n", b"{5+}\r\n", b"{0+}\r\n",
     b"AUTHENTICATE ", b"PLAIN", b" AHVzZXIAc2VjcmV0", b"\r\n", b"\n", b"\r", b"\0", b"*\r\n", b"=",
     b"ID ", b"NIL", b'("a" "b")', b"STARTTLS\r\n", b"{400+}\r\n", b"x" * 300, b"LOGOUT", b"\xff"]
)  # fmt: skip
STREAMS = st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=40).map(b"".join)


@given(STREAMS, st.data())
@settings(max_examples=300, deadline=None)
def test_the_cut_of_a_stream_does_not_matter(stream: bytes, data: st.DataObject) -> None:
    assert talk(Front(TERMS), cuts(stream, data)) == talk(Front(TERMS), [stream])


ARGUMENTS = st.lists(
    st.sampled_from([b"a", b'"', b"\\", b" ", b"(", b"{", b"({1}", b"{1+}", b"}", b"\r", b"\xff"]),
    max_size=5,
).map(b"".join)


@given(ARGUMENTS, ARGUMENTS, st.sampled_from([b" ", b"  ", b""]), st.booleans())
@settings(max_examples=1000, deadline=None)
def test_a_login_in_one_line_is_read_like_any_other(
    user: bytes, password: bytes, between: bytes, quoted: bool
) -> None:
    spelling = b'"%b"%b"%b"' if quoted else b"%b%b%b"
    line = b"a LOGIN " + spelling % (user, between, password) + b"\r\nb NOOP\r\n"
    at_once = talk(Front(TERMS), [line])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imap4, "_LOGIN", re.compile(rb"(?!)"))  # matches nothing
        assert talk(Front(TERMS), [line]) == at_once


def test_what_servers_say_is_remembered_within_bounds() -> None:
    remembered = imap4_back._read_greeting
    remembered.cache_clear()
    for number in range(2 * remembered.cache_info().maxsize):  # type: ignore[operator]
        for padding in (b"", b"x" * imap4_back._REMEMBERED):
            back = Back(Login(b"user", b"secret"), BackTerms(b"01234567"))
            line = b"* OK [CAPABILITY IMAP4rev1] server %d%b\r\n" % (number, padding)
            assert back.receive(line) is None
            assert back.take() == b'flim07 LOGIN "user" "secret"\r\n'
            assert remembered.cache_info().misses == number + 1
    assert remembered.cache_info().currsize == remembered.cache_info().maxsize


@given(PARTS)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_event_or_nothing_and_kept_within_bounds(parts: list[bytes]) -> None:
    keeps_within_bounds(Front(TERMS), parts, TERMS.line_limit + TERMS.literal_limit)


def test_a_front_that_is_held_says_when_it_is_full() -> None:
    front = Front(TERMS)
    assert isinstance(front.receive(b"a LOGIN user secret\r\n"), Login)
    assert not front.full
    for _ in range(5):
        assert front.receive(b"x" * 1000) is None
    assert front.full
    front.accepted(Accepted())
    assert front.unread() == b"x" * 5000


@given(PARTS)
@settings(max_examples=200, deadline=None)
def test_any_server_gives_an_outcome_or_a_wire_error(parts: list[bytes]) -> None:
    back = Back(Login(b"user", b"secret"), BACK_TERMS)
    gives_an_outcome(back, b"* OK [CAPABILITY IMAP4rev1] ready\r\n", parts)


@given(WORD.filter(bool), WORD, WORD, st.sampled_from([b"", b" LITERAL+", b" SASL-IR"]))
@settings(max_examples=400, deadline=None)
def test_what_a_back_says_a_front_understands(
    user: bytes, password: bytes, authorisation: bytes, capability: bytes
) -> None:
    login = Login(user, password, authorisation)
    assume(password or not authorisation)  # RFC 4616: a password has a character at least
    assume(authorisation != user)  # which says nothing
    front = Front(FrontTerms(b"ready", "IMAP4rev1 AUTH=PLAIN" + capability.decode()))
    understand_each_other(front, Back(login, BACK_TERMS), login)


@pytest.mark.parametrize(("size", "waits"), [(4096, False), (4097, True)])
def test_literal_minus_waits_above_4096_bytes(size: int, waits: bool) -> None:
    password = b"\xff" * size
    back = Back(Login(b"user", password), BackTerms(b"01234567"))
    assert back.receive(b"* OK [CAPABILITY IMAP4rev1 LITERAL-] ready\r\n") is None
    at_once = b"flim07 LOGIN {4+}\r\nuser {4096+}\r\n%b\r\n" % password
    assert back.take() == (b"flim07 LOGIN {4}\r\n" if waits else at_once)
