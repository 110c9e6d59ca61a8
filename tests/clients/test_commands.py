"""curl and openssl's s_client, in IMAP, POP3 and ManageSieve."""

from __future__ import annotations

import base64
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.clients.place import LONG, MODES, REFUSED, Place, Way, letter
from tests.servers.lines import Lines

Need = Callable[[str], str]


# -- curl -------------------------------------------------------------------------------------


class Curl:
    """curl on one way; each call is a connection of its own."""

    def __init__(self, program: str, way: Way, scheme: str, *options: str) -> None:
        tls = {"plain": (), "tls": (), "starttls": ("--ssl-reqd",)}[way.mode]
        self._way = way
        self._command = [program, "-sS", "--cacert", str(way.authority), *tls, *options]
        self._url = f"{scheme}{'s' * (way.mode == 'tls')}://{way.host}:{way.port}/"

    def __call__(
        self, path: str = "", *words: str, password: str | None = None, status: int = 0
    ) -> tuple[bytes, str]:
        """Run it; `path` is behind the host."""
        user = f"{self._way.user}:{self._way.password if password is None else password}"
        return self._way.run(
            *self._command, "-u", user, *words, self._url + path, status=status
        )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_curl_imap(place: Place, need: Need, mode: str) -> None:
    program = need("curl")

    def work(way: Way) -> list[Any]:
        curl = Curl(program, way, "imap")
        (way.folder / "letter").write_bytes(letter(8, LONG))
        seen: list[Any] = [curl("INBOX;UID=2"), curl("", "-X", 'LIST "" *')]
        seen += [curl("INBOX", "-T", str(way.folder / "letter")), curl("INBOX;MAILINDEX=4")]
        seen += [curl("INBOX", "-X", "STORE 1 +FLAGS (\\Deleted)"), curl("INBOX", "-X", "EXPUNGE")]
        seen += [curl("INBOX?SUBJECT%20Letter"), curl("INBOX;UID=1;SECTION=TEXT", status=78)]
        for options in (["--login-options", "AUTH=PLAIN"], ["--sasl-ir"]):
            seen.append(Curl(program, way, "imap", *options)("INBOX;UID=3"))
        return seen

    seen = place.same("imap", mode, work, letters=3)
    assert seen[0][0] == letter(2, LONG)
    assert seen[3][0] == letter(8, LONG)
    assert seen[6][0] == b"* SEARCH 1 2 3\r\n"
    assert [each[0] for each in seen[8:]] == [letter(3)] * 2


@pytest.mark.parametrize("mode", MODES)
def test_curl_pop3(place: Place, need: Need, mode: str) -> None:
    program = need("curl")

    def work(way: Way) -> list[Any]:
        curl = Curl(program, way, "pop3")
        seen: list[Any] = [curl(), curl("2"), curl("", "-X", "TOP 1 2"), curl("3", "-l")]
        for options in (["--login-options", "AUTH=PLAIN"], ["--login-options", "AUTH=LOGIN"],
                        ["--sasl-ir", "--login-options", "AUTH=PLAIN"]):  # fmt: skip
            seen.append(Curl(program, way, "pop3", *options)("1"))
        return [*seen, curl("", "-X", "DELE 1", "-I"), curl("", "-X", "STAT", "-I"), curl()]

    seen = place.same("pop3", mode, work, letters=3)
    assert seen[1][0] == letter(2, LONG)
    assert [each[0] for each in seen[4:7]] == [letter(1)] * 3
    assert len(seen[-1][0].splitlines()) == 2


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("mode", MODES)
def test_curl_with_a_wrong_password(place: Place, need: Need, protocol: str, mode: str) -> None:
    program = need("curl")

    def work(way: Way) -> str:
        return Curl(program, way, protocol)(password="wrong", status=67)[1]  # login denied

    complaint = place.same(protocol, mode, work, status=REFUSED)
    assert complaint.startswith("curl: (67) ")


# -- s_client ---------------------------------------------------------------------------------


@contextmanager
def s_client(way: Way, program: str, protocol: str) -> Iterator[Lines]:
    """Give what a person has who types into s_client."""
    starttls = ["-starttls", protocol] if way.mode == "starttls" else []
    ours, its = socket.socketpair()
    with ours, subprocess.Popen(
        [program, "s_client", "-quiet", "-connect", f"{way.host}:{way.port}", "-CAfile",
         way.authority, "-verify_return_error", "-verify_hostname", way.host, *starttls],
        stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        its.close()
        try:
            with Lines(ours) as lines:
                if not starttls and protocol != "sieve":
                    lines.hear()  # a greeting, which -starttls hides
                yield lines
        finally:
            process.terminate()


def plain(way: Way, password: str = "") -> str:
    """A response of SASL's PLAIN."""
    return base64.b64encode(f"\0{way.user}\0{password or way.password}".encode()).decode()


@pytest.mark.parametrize("mode", ["tls", "starttls"])
def test_s_client_imap(place: Place, need: Need, mode: str) -> None:
    program = need("openssl")

    def work(way: Way) -> list[Any]:
        with s_client(way, program, "imap") as lines:
            refused = lines.ask(f"a LOGIN {way.user} wrong")
            quoted = way.password.replace("\\", "\\\\").replace('"', '\\"')
            assert lines.ask(f'a LOGIN {way.user} "{quoted}"')[-1].startswith("a OK")
            lines.say("b SELECT INBOX\r\nc FETCH 1:* (UID BODY.PEEK[])\r\nd FROB")
            said = lines.up_to(b"d ")
            lines.say("e LOGOUT")
            return [refused[-1], *said, *lines.up_to(b"e OK")]

    refused, *said = place.same("imap", mode, work, letters=2, status=REFUSED)
    assert refused.startswith("a NO [AUTHENTICATIONFAILED]")
    assert letter(2, LONG) in b"".join(said)
    assert any(line.startswith(b"d BAD") for line in said)


@pytest.mark.parametrize("mode", ["tls", "starttls"])
def test_s_client_pop3(place: Place, need: Need, mode: str) -> None:
    program = need("openssl")

    def work(way: Way) -> list[Any]:
        with s_client(way, program, "pop3") as lines:
            lines.say("AUTH PLAIN")
            assert lines.hear() == "+ "
            lines.say("*")
            assert lines.hear().startswith("-ERR")
            lines.say(f"AUTH PLAIN {plain(way)}")
            assert lines.hear().startswith("+OK")
            lines.say("LIST\r\nRETR 2\r\nFROB")
            said = lines.up_to(b"-ERR")
            lines.say("QUIT")
            return said + lines.up_to(b"+OK")

    said = place.same("pop3", mode, work, letters=2)
    assert said[0] == b"+OK 2 messages:\r\n"
    assert b"y" * 2000 + b"\r\n" in said
    assert said[-1] == b"+OK Logging out.\r\n"


@pytest.mark.parametrize("mode", ["tls", "starttls"])
def test_s_client_managesieve(place: Place, need: Need, mode: str) -> None:
    program = need("openssl")

    def work(way: Way) -> list[Any]:
        verdict = b"OK", b"NO"
        with s_client(way, program, "sieve") as lines:
            lines.up_to(b"OK")  # capabilities
            wrong, right = plain(way, "wrong"), plain(way)
            lines.say(f'AUTHENTICATE "PLAIN" "{wrong}"')
            refused = lines.up_to(*verdict)
            lines.say(f'AUTHENTICATE "PLAIN" "{right}"')
            assert lines.up_to(*verdict)[-1].startswith(b"OK")
            lines.say('PUTSCRIPT "a" "keep;"\r\nLISTSCRIPTS\r\nPUTSCRIPT "b" "frob;"')
            said = lines.up_to(b"NO") + lines.up_to(b"")
            lines.say("LOGOUT")
            return [refused, *said, *lines.up_to(b"OK")]

    refused, put, listed, *_, bye = place.same("sieve", mode, work, status=REFUSED)
    assert refused == [b'NO "Authentication failed."\r\n']
    assert (put, listed) == (b'OK "PUTSCRIPT completed."\r\n', b'"a"\r\n')
    assert bye == b'OK "Logout completed."\r\n'
