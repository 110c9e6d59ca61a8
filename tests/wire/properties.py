"""What holds for every grammar and every input; the tests of each grammar say with which pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from perdition.errors import WireError
from perdition.wire.base import Back, Front, Login, Quit, Reason, Refused

PARTS = st.lists(st.binary(max_size=2000), max_size=30)

# NUL, CR and LF can't be in a name or password.
WORD = st.binary(max_size=60).map(
    lambda data: data.replace(b"\0", b"").replace(b"\r", b"").replace(b"\n", b"")
)


def cuts(stream: bytes, data: st.DataObject) -> list[bytes]:
    """The stream, cut somehow."""
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    return [stream[a:b] for a, b in pairwise([0, *places, len(stream)])]


def talk(front: Front, parts: list[bytes]) -> tuple[list[object], bytes, bytes]:
    """Events, what is said and what is left when each login is refused."""
    events: list[object] = []
    said = front.take()
    for part in parts:
        event = front.receive(part)
        said += front.take()
        while event is not None:
            events.append(event)
            if isinstance(event, Quit):
                return events, said, b""
            event = front.refused(Refused(Reason.REFUSED)) or front.receive(b"")
            said += front.take()
    return events, said, front.unread()


def keeps_within_bounds(front: Front, parts: list[bytes], most: int) -> None:
    """Any bytes are an event or nothing, and no more than `most` of them are kept."""
    for part in parts:
        event = front.receive(part)
        assert len(front.take()) < 100_000
        if event is not None:
            assert isinstance(event, Quit | Login)
            return
    assert len(front.unread()) <= most


def gives_an_outcome(back: Back, greeting: bytes, parts: list[bytes]) -> None:
    """Any server gives an outcome or a WireError, and little is said to it."""
    back.receive(greeting)
    try:
        for part in parts:
            if back.receive(part) is not None:
                break
            assert len(back.take()) < 1000
    except WireError:
        pass
    assert isinstance(back.lost(), Refused)


def understand_each_other(front: Front, back: Back, login: Login) -> None:
    """What a back says of a login, a front takes for the same login."""
    assert back.receive(front.take()) is None
    for _ in range(4):
        event = front.receive(back.take())
        if event is not None:
            assert event == login
            return
        assert back.receive(front.take()) is None
    raise AssertionError("no login came out")
