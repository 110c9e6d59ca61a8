"""What IMAP tells at a glance is what its grammars make of the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdition.errors import WireError
from perdition.wire import imap4_quick
from perdition.wire.base import Accepted, BackTerms, FrontTerms, Login, Origin
from perdition.wire.imap4 import Back, Front
from perdition.wire.imap4_back import id_command, login_command

TERMS = FrontTerms(b"ready", "IMAP4rev1", line_limit=64)
OTHER_TERMS = FrontTerms(b"ready", "IMAP4rev1", ok_line=b"in", server_resp_line=True)
BACK_TERMS = BackTerms(b"01234567")
CLIENT = Origin(("192.0.2.77", 40000), ("2001:db8::5", 993), "c2Vzc2lvbg")
SECRET = b"canary-secret"
USER = Login(b"ann", SECRET)

# -- the client ---------------------------------------------------------------------------------


def front_reads(data: bytes, terms: FrontTerms) -> Login | None:
    """The login that a front finds in `data`, if there is nothing else and nothing to say."""
    front = Front(terms)
    front.take()
    event = front.receive(data)
    alone = not front.take() and not front.unread()
    return event if isinstance(event, Login) and alone else None


USUAL = [
    b"a LOGIN ann secret\r\n",
    b"a login ann secret\n",
    b'1.a LoGiN "ann b" "s()*%{}~"\r\n',
    b'a LOGIN "" ""\r\n',
    b'a LOGIN ann "{3}"\r\n',
    b"a LOGIN ann x]\r\n",
    b"a LOGIN ann %b\r\n" % (b"x" * (64 - len("a LOGIN ann \r\n"))),
]
UNUSUAL = [
    b"a LOGIN ann %b\r\n" % (b"x" * (65 - len("a LOGIN ann \r\n"))),
    b"a LOGIN ann secret",
    b"a LOGIN ann secret\r",
    b"a LOGIN ann secret\r\r\n",
    b"a LOGIN ann secret\r\nb NOOP\r\n",
    b"a LOGIN ann secret\r\nb",
    b"a LOGIN ann {3}\r\n",
    b"a LOGIN ann {3+}\r\nxyz\r\n",
    b"a LOGIN {3}\r\n",
    b"a LOGIN ann secret more\r\n",
    b"a LOGIN  ann secret\r\n",
    b"a LOGIN ann\r\n",
    b"LOGIN ann secret\r\n",
    b"+ LOGIN ann secret\r\n",
    b'a LOGIN "an\\"n" secret\r\n',
    b'a LOGIN ann "s\\\\x"\r\n',
    b"a LOGIN ann s\\x\r\n",
    b'a LOGIN ann s"x\r\n',
    b"a LOGIN ann s\xe9cret\r\n",
    b'a LOGIN "\xff" secret\r\n',
    b'a LOGIN ann "a\tb"\r\n',
    b"a LOGIN ann a\0b\r\n",
    b"a NOOP\r\n",
    b"",
]


@pytest.mark.parametrize("line", USUAL)
def test_a_usual_login_is_read(line: bytes) -> None:
    found = imap4_quick.login(line, TERMS)
    assert found is not None
    assert found[1] == front_reads(line, TERMS)
    assert found[0] == line.split(b" ")[0]


@pytest.mark.parametrize("line", UNUSUAL)
def test_anything_else_is_left_to_the_grammar(line: bytes) -> None:
    assert imap4_quick.login(line, TERMS) is None


PIECES = st.sampled_from(
    [b"a", b"ann", b" ", b" ", b'"', b'"', b"\\", b"{3}", b"{3+}", b"(", b"%", b"*", b"+", b"]",
     b"}", b"~", b"\x7f", b"\xe9", b"\t", b"\0", b"x" * 40]
)  # fmt: skip
TEXT = st.lists(PIECES, max_size=5).map(b"".join)
VALUE = st.one_of(TEXT, TEXT.map(b'"%b"'.__mod__), st.sampled_from([b"ann", b'"a b"', b"{3}"]))
LINE = st.builds(
    b"%b %b %b %b%b".__mod__,
    st.tuples(
        st.one_of(st.just(b"a1"), TEXT),
        st.sampled_from([b"LOGIN", b"login", b"LOGI", b"AUTHENTICATE"]),
        VALUE,
        VALUE,
        st.sampled_from([b"\r\n", b"\n", b"\r", b"", b"\r\nb NOOP\r\n", b"\n\n", b" \r\n"]),
    ),
)


@given(st.one_of(LINE, st.binary(max_size=80)))
@settings(max_examples=400, deadline=None)
def test_what_is_read_at_a_glance_a_front_reads_alike(data: bytes) -> None:
    found = imap4_quick.login(data, TERMS)
    if found is None:
        return
    tag, login = found
    front = Front(TERMS)
    front.take()
    assert front.receive(data) == login
    assert imap4_quick.is_plain(login)
    assert front.take() == b""
    for accepted in (Accepted(), Accepted(b"* CAPABILITY X\r\n", b"[X] hi")):
        for terms in (TERMS, OTHER_TERMS):
            again = Front(terms)
            again.take()
            again.receive(data)
            again.accepted(accepted)
            assert imap4_quick.reply(accepted, tag, terms) == again.take()
            assert again.unread() == b""


def test_the_greeting_is_the_fronts() -> None:
    assert imap4_quick.greeting(TERMS) == Front(TERMS).take()


# -- the server ---------------------------------------------------------------------------------


def origin_of(is_told: bool) -> Origin | None:
    return CLIENT if is_told else None


def back_opens(greeted: bytes, user: Login, *, is_told: bool) -> bytes | None:
    """What a back says in one go, if that is its login and nothing is left over."""
    back = Back(user, BACK_TERMS, origin=origin_of(is_told))
    try:
        outcome = back.receive(greeted)
    except WireError:
        return None
    said = back.take()
    usual = outcome is None and back.logging_in and not back.unread()
    return said if usual and b" LOGIN " in said else None


OPENINGS = {
    b"* OK [CAPABILITY IMAP4rev1] ready\r\n": (False, False),
    b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n": (False, True),
    b"* ok [capability imap4rev1 id]\n": (False, True),
    b"* OK [CAPABILITY]\r\n": (False, False),
    b"* OK [CAPABILITY X STARTTLS SASL-IR AUTH=PLAIN] x\r\n": (False, False),
    b"* OK [CAPABILITY ID] ready\r\n* OK and more\r\n": (False, True),
}
NO_OPENINGS = [
    b"",
    b"* OK [CAPABILITY IMAP4rev1",
    b"* OK [CAPABILITY IMAP4rev1] ready\r",
    b"* OK [CAPABILITY IMAP4rev1] ready\r\n* ",
    b"* OK [CAPABILITY IMAP4rev1] ready\r\nflim07 OK in\r\n",
    b"* OK [CAPABILITY LOGINDISABLED] ready\r\n",
    b"* OK [CAPABILITY ID LOGINDISABLED SASL-IR AUTH=PLAIN] ready\r\n",
    b"* OK ready\r\n",
    b"* OK [ALERT] ready\r\n",
    b"* BYE [CAPABILITY IMAP4rev1] go away\r\n",
    b"* PREAUTH [CAPABILITY IMAP4rev1] hi\r\n",
    b"* OK [CAPABILITY IMAP4rev1] perdition ready on dmz 01234567\r\n",
    b"* OK [CAPABILITY IMAP4rev1] %b\r\n" % (b"x" * 70_000),
    b"* NO [CAPABILITY IMAP4rev1]\r\n",
    b"220 smtp.example.org ESMTP\r\n",
    b"+OK POP3\r\n",
    b"\0\xff\r\n",
]


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("greeted", OPENINGS)
def test_a_usual_greeting_is_answered_as_a_back_would(greeted: bytes, is_told: bool) -> None:
    wants = imap4_quick.wants_origin(greeted, BACK_TERMS, is_told)
    assert wants is OPENINGS[greeted][is_told]
    said = imap4_quick.opening(USER, origin_of(is_told) if wants else None)
    assert said == back_opens(greeted, USER, is_told=is_told)


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("greeted", NO_OPENINGS)
def test_any_other_greeting_is_left_to_the_back(greeted: bytes, is_told: bool) -> None:
    assert imap4_quick.wants_origin(greeted, BACK_TERMS, is_told) is None


PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'))
GREETINGS = st.lists(
    st.sampled_from(
        [b"* OK ", b"* BYE ", b"[CAPABILITY IMAP4rev1", b" ID", b" LOGINDISABLED", b" AUTH=PLAIN",
         b"] ", b"ready", b"01234567", b"\r\n", b"{3}", b"\xff", b"[ALERT] "]
    ),
    max_size=8,
).map(b"".join)  # fmt: skip


@given(st.one_of(GREETINGS, st.sampled_from(list(OPENINGS))), PLAIN, PLAIN, st.booleans())
@settings(max_examples=400, deadline=None)
def test_who_is_plain_hears_what_a_back_would_say(
    greeted: bytes, user: str, password: str, is_told: bool
) -> None:
    login = Login(user.encode(), password.encode())
    assert imap4_quick.is_plain(login)
    wants = imap4_quick.wants_origin(greeted, BACK_TERMS, is_told)
    wanted = back_opens(greeted, login, is_told=is_told)
    if wants is not None:
        assert imap4_quick.opening(login, origin_of(is_told) if wants else None) == wanted
    else:  # which is for the dialogue, whatever it is
        assert wanted is None


@pytest.mark.parametrize(
    "login",
    [
        Login(b'an"n', b"x"),
        Login(b"ann", b"x\\"),
        Login(b"ann", b"\xe9"),
        Login(b"ann", b"a\tb"),
        Login(b"ann", b"a\nb"),
        Login(b"ann", b"a\0b"),
        Login(b"ann", b"x", b"bob"),
        Login(b"ann", b"x", disabled=True),
    ],
)
def test_who_is_not_plain(login: Login) -> None:
    assert not imap4_quick.is_plain(login)


# -- its verdict --------------------------------------------------------------------------------

GREETING = b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n"
GOOD = {
    False: [
        b"flim07 OK\r\n",
        b"flim07 OK Logged in\r\n",
        b"flim07 ok [CAPABILITY IMAP4rev1 IDLE] Logged in\n",
        b"* CAPABILITY IMAP4rev1 X\r\nflim07 OK [X-OWN] in\r\n",
        b"* OK [ALERT] full\r\n* LIST () {3}\r\nabc x\r\nflim07 OK in\r\n",
        b"* BYE not really\r\nflim07 OK in\r\n",
    ],
    True: [
        b"flim08 OK Logged in\r\n",
        b'* ID ("name" "x")\r\nflim07 OK ID\r\nflim08 OK [CAPABILITY X] Logged in\r\n',
        b"* ID NIL\r\nflim07 BAD what?\r\n* CAPABILITY X\r\nflim08 OK in\r\n",
    ],
}
BAD = {
    False: [
        b"flim07 NO [AUTHENTICATIONFAILED] no\r\n",
        b"flim07 BAD what?\r\n",
        b"flim07 NO [UNAVAILABLE] later\r\n",
        b"* BYE away\r\nflim07 NO bye\r\n",
        b"flim07 MAYBE\r\n",
        b"flim08 OK in\r\n",
        b"+ more\r\n",
        b"junk\r\n",
        b"\0\xff\r\n",
        b"flim07 OK in\r\n* 3 EXISTS\r\n",
        b"flim07 OK in\r\n*",
        b"* LIST {99999}\r\n",
    ],
    True: [
        b"flim07 OK ID\r\nflim08 NO no\r\n",
        b"flim07 OK ID\r\nflim08 OK in\r\n* 3 EXISTS\r\n",
        b"flim07 OK ID\r\nflim07 OK in\r\n",
        b"flim09 OK in\r\n",
    ],
}


def back_judges(heard: bytes, *, is_told: bool) -> tuple[object, bytes]:
    """What a back makes of a greeting and what followed it, and what is left."""
    back = Back(USER, BACK_TERMS, origin=origin_of(is_told))
    assert back.receive(GREETING) is None
    try:
        outcome = back.receive(heard)
    except WireError as error:
        return error, b""
    return outcome, b"" if outcome is None else back.unread()


@pytest.mark.parametrize(
    ("is_told", "said"), [(told, each) for told, all_of in GOOD.items() for each in all_of]
)
def test_a_yes_is_read_as_by_a_back_at_any_cut(is_told: bool, said: bytes) -> None:
    for end in range(len(said)):
        assert back_judges(said[:end], is_told=is_told) == (None, b"")
        assert imap4_quick.verdict(GREETING + said[:end], BACK_TERMS, is_told) is True
    outcome = imap4_quick.verdict(GREETING + said, BACK_TERMS, is_told)
    assert isinstance(outcome, Accepted)
    assert (outcome, b"") == back_judges(said, is_told=is_told)


@pytest.mark.parametrize(
    ("is_told", "said"), [(told, each) for told, all_of in BAD.items() for each in all_of]
)
def test_anything_else_is_left_to_the_back(is_told: bool, said: bytes) -> None:
    assert imap4_quick.verdict(GREETING + said, BACK_TERMS, is_told) is False


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"flim07 ", b"flim08 ", b"flim09 ", b"* ", b"OK", b"NO", b"BAD", b"BYE", b"ID",
             b"CAPABILITY ", b" [CAPABILITY X] ", b"\r\n", b"\n", b"+ ", b"{3}\r\n", b"x" * 2000]
        ),
        st.binary(max_size=5),
    ),
    max_size=12,
).map(b"".join)  # fmt: skip
ALL_GOOD = st.sampled_from([each for all_of in GOOD.values() for each in all_of])


@given(st.one_of(WORDS, ALL_GOOD, st.tuples(ALL_GOOD, WORDS).map(b"".join)), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_verdict_is_the_backs(said: bytes, is_told: bool) -> None:
    at_a_glance = imap4_quick.verdict(GREETING + said, BACK_TERMS, is_told)
    outcome, left = back_judges(said, is_told=is_told)
    if left:
        assert at_a_glance is False
    elif isinstance(outcome, Accepted):
        assert at_a_glance == outcome
    else:
        assert at_a_glance is (outcome is None)


# -- what is remembered -------------------------------------------------------------------------


def test_what_is_remembered_is_bounded_and_no_users(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Login] = []

    class Watched(Back):
        """Whose login a server's words are tried with is what its state is made of."""

        def __init__(
            self, login: Login, terms: BackTerms, *, secure: bool = False,
            origin: Origin | None = None,
        ) -> None:  # fmt: skip
            shown.append(login)
            assert origin is None or origin.client[0] != CLIENT.client[0]
            super().__init__(login, terms, secure=secure, origin=origin)

    monkeypatch.setattr(imap4_quick, "Back", Watched)
    for cached in (imap4_quick.wants_origin, imap4_quick.verdict):
        cached.cache_clear()
    for number in range(300):
        user = Login(b"user%d" % number, b"%b%d" % (SECRET, number))
        greeted = b"* OK [CAPABILITY IMAP4rev1 ID] %d\r\n" % (number % 2)
        wants = imap4_quick.wants_origin(greeted, BACK_TERMS, True)
        assert wants is True
        said = imap4_quick.opening(user, CLIENT)
        assert said == id_command(b"flim07", CLIENT) + login_command(
            b"flim08", user.authentication_id, user.password
        )
        verdict = imap4_quick.verdict(greeted + b"flim08 OK in\r\n", BACK_TERMS, True)
        assert verdict == Accepted(b"", b"in")
    assert len(shown) == 4  # two servers, each with a greeting and a verdict
    assert all(login.password == b"password" for login in shown)
    assert not hasattr(imap4_quick.login, "cache_info")
    assert not hasattr(imap4_quick.opening, "cache_info")
    for number in range(300):
        imap4_quick.wants_origin(b"* OK %d\r\n" % number, BACK_TERMS, False)
        imap4_quick.verdict(b"* OK %d\r\n" % number, BACK_TERMS, False)
    for cached in (imap4_quick.wants_origin, imap4_quick.verdict):
        info = cached.cache_info()
        assert info.maxsize is not None and info.currsize == info.maxsize <= 256
