"""One battery over every registered map, each with its real part: file, database or service."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tests.conftest import lacking
from tests.popmap.battery import ENTRIES, INERT, Entries, Filled, query

from perdition.config import load
from perdition.errors import MapError
from perdition.log import Log, open_target
from perdition.ops.explain import explain
from perdition.popmap import lookups, registry
from perdition.popmap.base import Popmap, route_of
from perdition.popmap.cache import Lifetimes
from perdition.popmap.lookups import PENDING, Lookups, Terms
from perdition.route import Route
from perdition.server.setup import make_popmap, make_routing
from perdition.session.names import ReverseNames

# Name of a real part -> the module in this folder whose `filled(folder)` makes it. Each kind has
# one, named as the map's; further ones are named KIND-SOMETHING.
MAPS = {name: kind.module for name, kind in registry.KINDS.items()} | {
    "odbc-mariadb": "odbc_mariadb",
    "odbc-postgresql": "odbc_postgresql",
}


@pytest.fixture(params=sorted(MAPS))
def part(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture
def kind(part: str) -> str:
    return part.partition("-")[0]


@pytest.fixture
def filled(part: str, kind: str, tmp_path: Path) -> Iterator[Filled]:
    driver(kind)
    module = import_module(f"tests.popmap.{MAPS[part]}")
    with module.filled(tmp_path) as real:
        yield real


def driver(kind: str) -> None:
    """Skip at a desk, fail where CI=true, when the map's driver is missing."""
    try:
        registry.map_class(kind)
    except MapError as error:
        lacking(str(error))


class Asker:
    """A worker's `Lookups`, asked as a session does."""

    def __init__(self, kind: str, option: str, terms: Terms | None = None) -> None:
        self.said: list[str] = []

        def another() -> Popmap:
            return registry.make(kind, option)

        self._lookups = Lookups(another(), another, terms or Terms(), self.said.append)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._lookups.close()
        self._loop.close()

    def __call__(self, key: bytes) -> Route | None:
        async def ask() -> Route | None:
            route = self._lookups.ready(query(key))
            return await self._lookups.ask(query(key)) if route is PENDING else route

        return self._loop.run_until_complete(ask())


def answers(asker: Asker, entries: Entries) -> None:
    for key, value in entries.items():
        assert asker(key) == route_of(value), key


def held(filled: Filled) -> Entries:
    """What the map holds of ENTRIES."""
    return {key: value for key, value in ENTRIES.items() if key not in filled.lacks}


def test_hits_misses_and_inert_keys(kind: str, filled: Filled) -> None:
    with Asker(kind, filled.option) as asker:
        answers(asker, held(filled))
        for key in set(INERT) - filled.same:
            try:
                assert asker(key) is None, key
            except MapError:  # a key that the map can't take is refused, not misread
                pass
        answers(asker, held(filled))


def test_a_change_is_seen_without_a_restart(kind: str, filled: Filled) -> None:
    with Asker(kind, filled.option) as asker:
        assert asker(b"jo") == route_of(b"mail1.example")
        filled.fill({**ENTRIES, b"jo": b"moved.example:5", b"new": b"mail9.example"})
        assert asker(b"jo") == route_of(b"moved.example:5")
        assert asker(b"new") == route_of(b"mail9.example")


def test_a_map_that_goes_and_comes_back(kind: str, filled: Filled) -> None:
    if filled.stop is None or filled.start is None:
        assert not registry.map_class(kind).waits, "a service can be stopped"
        return
    terms = Terms(timeout=5.0, lifetimes=Lifetimes(stale=60.0))
    with Asker(kind, filled.option, terms) as asker:
        assert asker(b"jo") == route_of(b"mail1.example")
        filled.stop()
        started = time.monotonic()
        assert asker(b"jo") == route_of(b"mail1.example"), "the last answer serves"
        with pytest.raises(MapError):
            asker(b"port")
        assert time.monotonic() - started < 12
        assert any("popmap: " in line for line in asker.said)
        filled.start()
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            try:
                route = asker(b"port")
                break
            except MapError:
                continue
        assert route == route_of(b"mail3.example:imap")
        assert asker.said[-1] == "popmap: answers again"


def test_a_map_that_is_down_at_the_start(kind: str, filled: Filled) -> None:
    if filled.stop is None or filled.start is None:
        assert not registry.map_class(kind).waits
        return
    filled.stop()
    with Asker(kind, filled.option, Terms(timeout=5.0)) as asker:
        with pytest.raises(MapError):
            asker(b"jo")
        filled.start()
        assert asker(b"jo") == route_of(b"mail1.example")


def test_a_map_that_hangs(
    part: str, kind: str, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes questions and is silent: who has a last answer gets it, nobody waits for long."""
    if filled.pause is None or filled.resume is None:
        assert not registry.map_class(kind).waits or part == "odbc", "a service can hang"
        return
    monkeypatch.setattr(lookups, "PATIENCE", 0.2)
    terms = Terms(timeout=0.8, connections=2, lifetimes=Lifetimes(stale=60.0))
    with Asker(kind, filled.option, terms) as asker:
        known = (b"jo", b"v6", b"o'hara")
        for key in known:
            assert asker(key) == route_of(ENTRIES[key])
        filled.pause()
        try:
            started = time.monotonic()
            for key in known * 2:
                assert asker(key) == route_of(ENTRIES[key]), "the last answer serves"
            assert time.monotonic() - started < 3
            with pytest.raises(MapError):
                asker(b"port")
            assert time.monotonic() - started < 5
        finally:
            filled.resume()
        deadline = time.monotonic() + 12
        while True:
            try:
                assert asker(b"port") == route_of(ENTRIES[b"port"])
                break
            except MapError:
                assert time.monotonic() < deadline, "it does not recover"
                time.sleep(0.05)


def test_explain_shows_what_the_map_says(
    kind: str, filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hit, a miss, and a map that is down; nothing of the option is shown."""

    def explained(user: str) -> tuple[int, str]:
        words = ["-f", "/dev/null", "-M", kind, "-m", filled.option, "--explain", user]
        config = load("perdition.imap4", words, directory="/")
        log = Log(open_target("+", ""), config.basename)

        async def run() -> int:
            names = ReverseNames(asyncio.get_running_loop())
            routing = make_routing(config, make_popmap(config), log, names)
            try:
                return await explain(config, routing, False)
            finally:
                assert routing.lookups is not None
                routing.lookups.close()

        status = asyncio.run(run())
        said = capsys.readouterr()
        assert "sesame" not in said.out + said.err
        return status, said.out

    status, said = explained("an@example.org")
    assert status == 0
    assert "\nquery key an@example.org: mail2.example:1143, user an (" in said
    assert "\nuser an does not count without username_from_database (" in said
    assert "\nname sent to the server: an@example.org\n" in said
    status, said = explained("nobody")
    assert status == 1
    assert "\nno route" in said
    if filled.stop is not None and filled.start is not None:
        filled.stop()
        try:
            status, said = explained("jo")
        finally:
            filled.start()
        assert status == 1
        assert re.search("\nquery key jo: .* \\([0-9.]+ ms\\)\nno route, which .* passes: ", said)


# Kinds that take an empty value for trouble; makegdbm and NIS's makedbm write none.
NO_EMPTY_VALUE = ("command", "daemon")
NEVER_EMPTY = ("gdbm", "nis")


def test_an_empty_value(kind: str, filled: Filled) -> None:
    """A user whom the map knows without a server: the default servers are for him."""
    if kind in NEVER_EMPTY:
        return
    filled.fill({**ENTRIES, b"nil": b""})
    with Asker(kind, filled.option) as asker:
        if kind in NO_EMPTY_VALUE:
            with pytest.raises(MapError):
                asker(b"nil")
        else:
            assert asker(b"nil") == Route(())


def test_an_option_that_can_not_be_used_names_no_secret(kind: str) -> None:
    driver(kind)
    option = "/nonexistent/\x01:pw=sesame:::::::::::::::"
    with pytest.raises(MapError) as caught, Asker(kind, option) as asker:
        asker(b"jo")
    if registry.map_class(kind).waits:  # a file map's option is a file's name and no secret
        assert "sesame" not in str(caught.value)
