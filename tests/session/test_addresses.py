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
    assert [one.enter(key), other.enter(key), one.enter(key)] == [True] * 3
    assert not one.enter(key) and not other.enter(key)
    assert other.enter(elsewhere)
    other.leave(key)
    assert one.enter(key) and not other.enter(key)


def test_a_network_of_ipv6_is_one_client() -> None:
    assert Arrivals.key("2001:db8::1") == Arrivals.key("2001:db8::ffff:1")
    assert Arrivals.key("2001:db8::1") != Arrivals.key("2001:db8:0:1::1")
    assert Arrivals.key("fe80::1%eth0") != 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=300))
def test_who_comes_may_go_and_the_table_is_empty_again(moves: list[tuple[bool, int]]) -> None:
    cells = [0] * 32  # two keys for each place, and two places for each key
    arrivals = Arrivals(4, cells, list)
    inside: list[int] = []
    for comes, key in moves:
        if comes:
            room = inside.count(key) < 4
            assert arrivals.enter(key) is room
            inside += [key] * room
        elif key in inside:
            inside.remove(key)
            arrivals.leave(key)
    for key in inside:
        arrivals.leave(key)
    assert not any(cells[1::2])


@given(st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=200))
def test_a_full_table_lets_everybody_in_and_never_counts_below_nothing(keys: list[int]) -> None:
    cells = [0] * 8
    arrivals = Arrivals(1000, cells, list)
    assert all(arrivals.enter(key or 1) for key in keys)
    for key in keys:
        arrivals.leave(key or 1)
        arrivals.leave(key or 1)
    assert min(cells[1::2]) >= 0


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
