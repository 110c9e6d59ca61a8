"""What is remembered of addresses, in plain lists: counts are exact, waits grow and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdition.session import addresses
from perdition.session.addresses import FORGOTTEN, Arrivals, Penalties


class Clock:
    """The time as `addresses` sees it, in milliseconds."""

    def __init__(self) -> None:
        self.now = 5_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(addresses, "_milliseconds", clock)
    return clock


def test_a_limit_over_two_workers() -> None:
    cells = [0] * 64, [0] * 64
    one = Arrivals(3, cells[0], lambda: [cells[1]])
    other = Arrivals(3, cells[1], lambda: [cells[0]])
    key, elsewhere = one.key("192.0.2.1"), one.key("192.0.2.2")
    places = [one.enter(key), other.enter(key), one.enter(key)]
    assert min(places) > 0
    assert one.enter(key) == other.enter(key) == -1
    assert other.enter(elsewhere) > 0
    other.leave(places[1])
    assert one.enter(key) > 0 and other.enter(key) == -1


def test_a_worker_that_came_later_counts_with_its_next_look() -> None:
    cells, there = [0] * 64, list[list[int]]()
    arrivals = Arrivals(1, [0] * 64, lambda: [*there])
    assert arrivals.enter(3) > 0
    later = Arrivals(1, cells, list)
    assert later.enter(7) > 0
    there.append(cells)
    assert arrivals.enter(5) > 0, "as it looked last"
    arrivals.look_again()
    assert arrivals.enter(7) == -1


def test_a_network_of_ipv6_is_one_client() -> None:
    assert Arrivals.key("2001:db8::1") == Arrivals.key("2001:db8::ffff:1")
    assert Arrivals.key("2001:db8::1") != Arrivals.key("2001:db8:0:1::1")
    assert Arrivals.key("fe80::1%eth0") != 0


# Of these keys two have the same first place, and nobody's second place is another's first.
_KEYS = [*range(2, 16, 2), *range(18, 32, 2)]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(_KEYS)), max_size=300))
def test_who_comes_may_go_and_the_table_is_empty_again(moves: list[tuple[bool, int]]) -> None:
    cells = [0] * 32
    arrivals = Arrivals(4, cells, list)
    inside: list[tuple[int, int]] = []
    for comes, key in moves:
        there = [each for each in inside if each[0] == key]
        if comes:
            place = arrivals.enter(key)
            assert (place > 0) is (len(there) < 4)
            inside += [(key, place)] * (place > 0)
        elif there:
            inside.remove(there[0])
            arrivals.leave(there[0][1])
    for _, place in inside:
        arrivals.leave(place)
    assert not any(cells[1::2])


@given(st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=200))
def test_a_full_table_lets_everybody_in_and_counts_whom_it_can(keys: list[int]) -> None:
    cells = [0] * 8
    arrivals = Arrivals(1000, cells, list)
    places = [arrivals.enter(key or 1) for key in keys]
    assert min(places, default=0) >= 0
    assert sum(cells[1::2]) == sum(place > 0 for place in places)
    for place in filter(None, places):
        arrivals.leave(place)
    assert not any(cells[1::2])


def test_a_wait_doubles_up_to_the_limit_and_is_over_in_time(clock: Clock) -> None:
    penalties = Penalties([0] * 64, 3, 15)
    key = penalties.key("192.0.2.1", b"ann")
    assert penalties.wait(key) == 0
    for seconds in (3, 6, 12, 15, 15):
        assert penalties.failed(key) == seconds
        assert penalties.wait(key) == seconds
        clock.now += seconds * 1000 - 500
        assert penalties.wait(key) == 0.5
        clock.now += 500
        assert penalties.wait(key) == 0


def test_others_do_not_wait(clock: Clock) -> None:
    penalties = Penalties([0] * 64, 3, 15)
    penalties.failed(penalties.key("192.0.2.1", b"ann"))
    assert penalties.wait(penalties.key("192.0.2.2", b"ann")) == 0
    assert penalties.wait(penalties.key("192.0.2.1", b"bob")) == 0
    assert penalties.wait(penalties.key("192.0.2.1", b"Ann")) == 3, (
        "a server may not tell them apart"
    )


def test_success_and_time_forgive(clock: Clock) -> None:
    penalties = Penalties([0] * 64, 3, 15)
    key = penalties.key("2001:db8::1", b"ann")
    assert [penalties.failed(key), penalties.failed(key)] == [3, 6]
    penalties.forgive(key)
    assert penalties.wait(key) == 0
    assert penalties.failed(key) == 3
    clock.now += (3 + FORGOTTEN) * 1000 + 1
    assert penalties.failed(key) == 3


def test_many_failures_keep_within_the_table_and_the_cells(clock: Clock) -> None:
    cells = [0] * 16
    penalties = Penalties(cells, 300, 3600)
    for number in range(2000):
        assert 300 <= penalties.failed(penalties.key("192.0.2.1", b"%d" % (number % 40))) <= 3600
    assert len(cells) == 16
    assert max(cells[1::2]) < 2**63
