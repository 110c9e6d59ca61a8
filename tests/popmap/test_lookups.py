"""How maps are asked: bounds, lifetimes, and a loop that never waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from tests.popmap.battery import query

from perdition.errors import MapError
from perdition.popmap import lookups as lookups_module
from perdition.popmap import registry
from perdition.popmap.base import Popmap, Query, checked_server, route_from, route_of
from perdition.popmap.cache import Cache, Lifetimes
from perdition.popmap.lookups import PENDING, Lookups, Terms
from perdition.popmap.threads import SPARE
from perdition.route import Route, Server

JO, AN = query(b"jo"), query(b"an")


class Slow(Popmap):
    """A map that answers when it is let; all objects of a test share one gate."""

    waits = True

    def __init__(self, option: str = "") -> None:
        self.gate = threading.Event()
        self.asked: list[bytes] = []
        self.down = False
        self.moved = ""

    def lookup(self, query: Query) -> Route | None:
        self.asked.append(query.key)
        self.gate.wait(10)
        if self.down:
            raise MapError("down")
        if query.key == b"an":
            return None
        return route_of(self.moved.encode() or query.key + b".example")


Test = Callable[[Slow, Lookups, list[str]], Coroutine[object, object, None]]


def run(test: Test, kind: type[Slow] = Slow, **terms: object) -> None:
    popmap, said = kind(), list[str]()
    lookups = Lookups(popmap, lambda: popmap, Terms(**terms), said.append)  # type: ignore[arg-type]
    try:
        asyncio.run(test(popmap, lookups, said))
    finally:
        popmap.gate.set()
        lookups.close()


def test_a_slow_map_holds_up_neither_the_loop_nor_the_client_for_long() -> None:
    async def test(popmap: Slow, lookups: Lookups, said: list[str]) -> None:
        started = time.monotonic()
        asked = asyncio.create_task(lookups.ask(JO))
        await asyncio.sleep(0)
        assert time.monotonic() - started < 0.1
        with pytest.raises(MapError, match=r"no answer within 0.3 s"):
            await asked
        assert 0.3 <= time.monotonic() - started < 2
        assert said == ["popmap: no answer within 0.3 s"]

    run(test, timeout=0.3)


def test_look_ups_under_way_have_a_bound() -> None:
    async def test(popmap: Slow, lookups: Lookups, _: list[str]) -> None:
        under_way = [asyncio.create_task(lookups.ask(JO)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(MapError, match="3 look-ups are under way already"):
            await lookups.ask(JO)
        popmap.gate.set()
        assert await asyncio.gather(*under_way) == [route_of(b"jo.example")] * 3
        assert await lookups.ask(JO) == route_of(b"jo.example")

    run(test, queue_limit=3, connections=2)


def test_no_more_connections_than_allowed() -> None:
    async def test(popmap: Slow, lookups: Lookups, _: list[str]) -> None:
        under_way = [asyncio.create_task(lookups.ask(JO)) for _ in range(5)]
        await asyncio.sleep(0.2)
        assert len(popmap.asked) == 2
        popmap.gate.set()
        await asyncio.gather(*under_way)

    run(test, connections=2)


def test_answers_are_given_again_as_long_as_they_live() -> None:
    async def test(popmap: Slow, lookups: Lookups, _: list[str]) -> None:
        popmap.gate.set()
        assert lookups.ready(JO) is PENDING
        await lookups.ask(JO)
        assert lookups.ready(JO) == route_of(b"jo.example")
        assert await lookups.ask(AN) is None
        assert lookups.ready(AN) is None
        lookups.flush({JO.key})
        assert lookups.ready(JO) is PENDING
        lookups.flush()
        assert lookups.ready(AN) is PENDING

    run(test, lifetimes=Lifetimes(found=60, missing=60))


def test_when_the_map_is_down_one_look_up_tries_it_and_the_rest_do_not_wait() -> None:
    async def test(popmap: Slow, lookups: Lookups, said: list[str]) -> None:
        popmap.gate.set()
        await lookups.ask(JO)
        popmap.down = True
        assert await lookups.ask(JO) == route_of(b"jo.example"), "stale"
        popmap.gate.clear()
        trying = asyncio.create_task(lookups.ask(AN))
        await asyncio.sleep(0)
        before = len(popmap.asked)
        assert await asyncio.wait_for(lookups.ask(JO), 0.5) == route_of(b"jo.example")
        with pytest.raises(MapError, match="down"):
            await asyncio.wait_for(lookups.ask(AN), 0.5)
        assert len(popmap.asked) <= before + 1
        popmap.gate.set()
        with pytest.raises(MapError):
            await trying
        popmap.down = False
        assert await lookups.ask(AN) is None
        assert said == ["popmap: down", "popmap: answers again"]

    run(test, lifetimes=Lifetimes(stale=60), connections=4)


def test_who_has_a_last_answer_does_not_wait_for_a_slow_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given after a while; what the map says late counts from then on."""
    monkeypatch.setattr(lookups_module, "PATIENCE", 0.2)

    async def test(popmap: Slow, lookups: Lookups, said: list[str]) -> None:
        popmap.gate.set()
        await lookups.ask(JO)
        popmap.gate.clear()
        popmap.moved = "moved.example"
        started = time.monotonic()
        assert await lookups.ask(JO) == route_of(b"jo.example")
        assert 0.2 <= time.monotonic() - started < 1
        popmap.gate.set()
        await asyncio.sleep(0.1)
        popmap.gate.clear()
        assert await lookups.ask(JO) == route_of(b"moved.example"), "the late answer was kept"
        assert said == []

    run(test, timeout=5, lifetimes=Lifetimes(stale=60))


def test_a_map_that_is_asked_too_much_gives_last_answers() -> None:
    async def test(popmap: Slow, lookups: Lookups, _: list[str]) -> None:
        popmap.gate.set()
        await lookups.ask(JO)
        popmap.gate.clear()
        under_way = [asyncio.create_task(lookups.ask(AN)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await lookups.ask(JO) == route_of(b"jo.example")
        with pytest.raises(MapError, match="2 look-ups are under way"):
            await lookups.ask(AN)
        popmap.gate.set()
        await asyncio.gather(*under_way)

    run(test, queue_limit=2, lifetimes=Lifetimes(stale=60))


def test_threads_that_hang_for_good_are_replaced_but_not_without_end() -> None:
    async def test(popmap: Slow, lookups: Lookups, said: list[str]) -> None:
        for _ in range(SPARE + 3):
            await asyncio.gather(*(lookups.ask(AN) for _ in range(2)), return_exceptions=True)
            await asyncio.sleep(0.2)
            lookups._down_until = 0.0
        assert len(popmap.asked) == 2 * (SPARE + 1), "two threads, and their replacements"
        popmap.gate.set()
        assert await lookups.ask(AN) is None
        assert said == ["popmap: no answer within 0.1 s", "popmap: answers again"]

    run(test, connections=2, timeout=0.1)


def test_a_map_whose_answers_hang_on_the_client_serves_when_it_is_down() -> None:
    """A client comes from another port each time."""

    class ByAddress(Slow):
        uses_addresses = True

    async def test(popmap: Slow, lookups: Lookups, _: list[str]) -> None:
        popmap.gate.set()
        await lookups.ask(JO)
        again = JO._replace(client=("192.0.2.1", 40001))
        assert lookups.ready(again) == route_of(b"jo.example"), "kept, whatever the port"
        other = JO._replace(client=("192.0.2.9", 40001))
        assert lookups.ready(other) is PENDING
        popmap.down = True
        assert await lookups.ask(other) == route_of(b"jo.example")
        assert lookups.flush({JO.key}) == 2

    run(test, lifetimes=Lifetimes(found=60, stale=60), kind=ByAddress)


def test_cache_lifetimes_and_size_to_the_second() -> None:
    now = 100.0
    cache = Cache(Lifetimes(found=10, missing=5, stale=20), 2, lambda: now)
    route = route_of(b"a.example")
    cache.keep(b"jo", route)
    cache.keep(b"an", None)
    assert [cache.fresh(k) is not None for k in (b"jo", b"an", b"x")] == [True, True, False]
    now = 105.0
    assert [cache.fresh(k) is not None for k in (b"jo", b"an")] == [True, False]
    assert cache.stale(b"an") is None, "an unknown user may be known by now"
    now = 110.0
    assert cache.fresh(b"jo") is None
    assert (cache.stale(b"jo") or ("",))[0] == route
    now = 120.0
    assert cache.stale(b"jo") is None
    for key in (b"1", b"2", b"3"):
        cache.keep(key, route)
    assert [cache.fresh(k) is not None for k in (b"1", b"2", b"3")] == [False, True, True]
    nothing = Cache(Lifetimes(stale=20), 0, lambda: now)
    nothing.keep(b"jo", route)
    assert nothing.stale(b"jo") is None


def test_a_large_file_is_read_off_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "popmap"
    path.write_text("jo:a.example\n")

    async def test() -> None:
        popmap = registry.make("popmap", str(path))
        lookups = Lookups(popmap, lambda: popmap, Terms(), lambda _: None)
        path.write_text("".join(f"user{n}:a.example\n" for n in range(300_000)) + "jo:b.example\n")
        assert lookups.ready(JO) is PENDING
        reading = asyncio.create_task(lookups.ask(JO))
        longest, before = 0.0, time.monotonic()
        while not reading.done():
            await asyncio.sleep(0.001)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        assert await reading == route_of(b"b.example")
        assert longest < 0.2
        lookups.close()

    asyncio.run(test())


VALUES: list[tuple[bytes, Route | None]] = [
    (b"a.example", Route((Server("a.example"),))),
    (b"a.example:imap", Route((Server("a.example", "imap"),))),
    (b"u@d@a.example:7", Route((Server("a.example", "7"),), b"u@d")),
    (b"[2001:db8::1]:7,b.example", Route((Server("2001:db8::1", "7"), Server("b.example")))),
    (b"u@", Route((), b"u")),
    (b"u::7", Route((Server("u::7"),))),
    (b":7", Route(())),
    (b"", Route(())),
    (b"a b", None),
    (b"a.example:70000", None),
    (b"a.example:0", None),
    (b"[::1", None),
    (b"a/../b", None),
    (b"a.example:7 ", Route((Server("a.example", "7"),))),
    (b"u\r\nv@a.example", None),
    (b"u\0@a.example", None),
]


@pytest.mark.parametrize(("value", "route"), VALUES, ids=str)
def test_values(value: bytes, route: Route | None) -> None:
    if route is None:
        with pytest.raises(MapError, match="the map's value"):
            route_of(value)
    else:
        assert route_of(value) == route


def test_separate_columns() -> None:
    assert route_from(b"", "a.example", "7") == Route((Server("a.example", "7"),))
    assert route_from(b"u", "::1", "7") == Route((Server("::1", "7"),), b"u")
    assert route_from(b"u", "", "7") == Route((), b"u"), "no server but a port"
    assert route_from(b"", "u@a.example:7", "") == Route((Server("a.example", "7"),), b"u")
    with pytest.raises(MapError):
        checked_server("")


def test_maps_of_other_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in docs/popmaps.md, installed as a distribution with an entry point."""
    text = (Path(__file__).parents[2] / "docs/popmaps.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "popmap_by_letter.py").write_text(code)
    info = tmp_path / "popmap_by_letter-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: popmap-by-letter\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[perdition.popmap]\nletter = popmap_by_letter:ByLetter\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    popmap = registry.make("letter", "imap-%s.example.org")
    assert popmap.lookup(JO) == route_of(b"imap-j.example.org")
    assert "letter" in registry.kinds()
