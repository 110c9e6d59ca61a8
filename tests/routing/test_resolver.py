"""Names of servers: one question for all who ask, and an older answer when the resolver is slow."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from perdition.route import Server
from perdition.session import dial
from perdition.session.dial import Resolver

MAIL = Server("localhost", "143")
NONE = Server("no-such.invalid", "143")


class Slowed:
    """The loop's own resolver, behind a gate; counts what it is asked."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def getaddrinfo(self, *words: Any, **more: Any) -> Any:
        self.asked += 1
        await self.gate.wait()
        return await asyncio.get_running_loop().getaddrinfo(*words, **more)


def test_all_wait_for_one_question() -> None:
    async def test() -> None:
        loop = Slowed()
        resolver = Resolver(loop)  # type: ignore[arg-type]
        answers = await asyncio.gather(*(resolver.ask(MAIL) for _ in range(20)))
        assert loop.asked == 1
        assert (socket.AF_INET, ("127.0.0.1", 143)) in answers[0]
        assert set(answers) == {resolver.known(MAIL)}
        given_up = asyncio.ensure_future(resolver.ask(NONE))
        other = asyncio.ensure_future(resolver.ask(NONE))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(OSError, match=r"not known|failure"):
            await other
        with pytest.raises(OSError, match="no host name"):
            await resolver.ask(Server("x" * 70, "143"))

    asyncio.run(test())


def test_an_older_answer_serves_when_the_resolver_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "NAME_LIFETIME", 0.0)
    monkeypatch.setattr(dial, "NAME_PATIENCE", 0.2)

    async def test() -> None:
        loop = Slowed()
        resolver = Resolver(loop)  # type: ignore[arg-type]
        first = await resolver.ask(MAIL)
        assert resolver.known(MAIL) == (), "it is asked for again"
        loop.gate.clear()
        started = time.monotonic()
        assert await resolver.ask(MAIL) == first
        assert 0.2 <= time.monotonic() - started < 1
        assert resolver.known(MAIL) == first, "for a while nobody waits again"
        loop.gate.set()
        await asyncio.wait(set(resolver._asked.values()))
        assert resolver.known(MAIL) == (), "the late answer counts"

    asyncio.run(test())
