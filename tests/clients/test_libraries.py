"""Python's clients: imaplib, IMAPClient, aioimaplib and poplib."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import poplib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO, Any

import aioimaplib
import imapclient
import pytest
from tests.clients.place import LONG, MODES, REFUSED, Place, Way, letter

# -- imaplib ----------------------------------------------------------------------------------


@contextlib.contextmanager
def imap(way: Way) -> Iterator[imaplib.IMAP4]:
    """Python's own client before its login."""
    if way.mode == "tls":
        client: imaplib.IMAP4 = imaplib.IMAP4_SSL(
            way.host, way.port, ssl_context=way.context, timeout=10
        )
    else:
        client = imaplib.IMAP4(way.host, way.port, timeout=10)
    try:
        if way.mode == "starttls":
            assert client.starttls(way.context)[0] == "OK"
        yield client
    finally:
        with contextlib.suppress(OSError):  # that it was logged out
            client.shutdown()


def log_in(client: imaplib.IMAP4, way: Way, how: str = "LOGIN") -> None:
    """Log in by a command or mechanism."""
    if how == "LOGIN":
        client.login(way.user, way.password)
    else:
        plain = f"\0{way.user}\0{way.password}".encode()
        client.authenticate("PLAIN", lambda _: plain)


@pytest.mark.parametrize("how", ["LOGIN", "PLAIN"])
@pytest.mark.parametrize("mode", MODES)
def test_imaplib(place: Place, mode: str, how: str) -> None:
    def work(way: Way) -> list[Any]:
        seen: list[Any] = []
        with imap(way) as client:
            log_in(client, way, how)
            seen += [client.capability(), client.namespace(), client.select()]
            seen += [client.create("Box &- more"), client.subscribe("INBOX"), client.lsub()]
            seen += [client.list(), client.append("INBOX", "\\Flagged", None, letter(7, LONG))]
            seen += [client.noop(), client.fetch("1:*", "(FLAGS RFC822.SIZE ENVELOPE)")]
            seen += [client.fetch("1:*", "(BODY.PEEK[])"), client.search(None, "SUBJECT", "Letter")]
            seen += [client.store("2", "+FLAGS", "\\Seen \\Deleted"), client.expunge()]
            seen += [client.status("INBOX", "(MESSAGES UNSEEN)"), client.uid("SEARCH", "ALL")]
            seen += [client.select("nowhere"), client.logout()[0]]
        return seen

    seen = place.same("imap", mode, work, letters=2)
    fetched = [part[1] for part in seen[10][1] if isinstance(part, tuple)]
    assert fetched == [letter(1), letter(2, LONG), letter(7, LONG)]
    assert seen[-1] == "BYE"


@pytest.mark.parametrize("mode", MODES)
def test_imaplib_idles(place: Place, mode: str) -> None:
    def work(way: Way) -> list[bytes]:
        with imap(way) as client:
            log_in(client, way)
            client.select()
            client.send(b"x IDLE\r\n")
            said = [client.readline()]
            place.deliver(way.user, 3)
            said += [client.readline(), client.readline()]
            client.send(b"DONE\r\n")
            while not said[-1].startswith(b"x "):
                said.append(client.readline())
            return said

    said = place.same("imap", mode, work)
    assert said[0].startswith(b"+")
    assert b"* 1 EXISTS\r\n" in said
    assert said[-1].startswith(b"x OK")


@pytest.mark.parametrize("mode", MODES)
def test_imaplib_with_a_wrong_password(place: Place, mode: str) -> None:
    def work(way: Way) -> list[str]:
        heard = []
        with imap(way) as client:
            with pytest.raises(client.error) as raised:
                client.login(way.user, "wrong")
            assert type(raised.value) is client.error  # not that of a lost connection
            heard.append(str(raised.value))
            with pytest.raises(client.error) as raised:
                client.authenticate("PLAIN", lambda _: f"\0{way.user}\0wrong".encode())
            heard.append(str(raised.value))
            log_in(client, way)
            heard.append(client.select()[0])
        return heard

    heard = place.same("imap", mode, work, status=REFUSED)
    assert all("[AUTHENTICATIONFAILED]" in text for text in heard[:2])
    assert heard[2] == "OK"


@pytest.mark.parametrize("mode", MODES)
def test_imap_pipelined(place: Place, mode: str) -> None:
    """All of a session but its end in one write, as RFC 3501 has it."""

    def work(way: Way) -> list[bytes]:
        quoted = way.password.replace("\\", "\\\\").replace('"', '\\"')
        with imap(way) as client:
            client.send(
                f'a LOGIN {way.user} "{quoted}"\r\n'
                f"b APPEND INBOX {{{len(letter(5))}+}}\r\n".encode() + letter(5)
                + b"\r\nc SELECT INBOX\r\nd FETCH 1:* BODY.PEEK[]\r\n"
            )  # fmt: skip
            up_to(client.file, b"b OK")
            answers = up_to(client.file, b"d OK")
            client.send(b"e LOGOUT\r\n")
            return answers + up_to(client.file, b"e OK")

    said = place.same("imap", mode, work, letters=2)
    for each in letter(1), letter(2, LONG), letter(5):
        assert each + b")\r\n" in b"".join(said)
    assert [line[:4] for line in said if re.match(rb"[a-e] ", line)] == [
        b"c OK", b"d OK", b"e OK",
    ]  # fmt: skip


def up_to(reader: IO[Any], start: bytes) -> list[bytes]:
    """Return lines up to one that begins so, as they came."""
    lines = [b""]
    while not lines[-1].startswith(start):
        line = reader.readline()
        assert line, lines[-3:]
        lines.append(line)
    return lines[1:]


# -- IMAPClient -------------------------------------------------------------------------------


@contextlib.contextmanager
def imap_client(way: Way) -> Iterator[imapclient.IMAPClient]:
    """IMAPClient before its login."""
    tls = way.mode == "tls"
    client = imapclient.IMAPClient(
        way.host, way.port, ssl=tls, ssl_context=way.context if tls else None, timeout=10
    )
    try:
        if way.mode == "starttls":
            client.starttls(way.context)
        yield client
    finally:
        with contextlib.suppress(OSError):
            client.shutdown()


@pytest.mark.parametrize("mode", MODES)
def test_imapclient(place: Place, mode: str) -> None:
    def work(way: Way) -> list[Any]:
        with imap_client(way) as client:
            client.login(way.user, way.password)
            seen = [client.capabilities(), client.id_({"name": "test"}), client.namespace()]
            seen.append(sorted(client.select_folder("INBOX").items())[:4])
            seen.append(client.create_folder("Grüße"))
            seen.append(client.list_folders())
            client.append("Grüße", letter(4, LONG), ["\\Answered"])
            seen.append(client.search(["UNSEEN"]))
            seen.append(client.add_flags([1], ["\\Flagged", "$Work"]))
            seen.append(client.get_flags([1, 2]))
            seen.append({uid: data[b"BODY[]"] for uid, data in
                         client.fetch([1, 2], ["BODY.PEEK[]"]).items()})  # fmt: skip
            seen.append(client.move([1], "Grüße"))
            client.select_folder("Grüße", readonly=True)
            seen.append({uid: (data[b"FLAGS"], data[b"RFC822.SIZE"]) for uid, data in
                         client.fetch([1, 2], ["FLAGS", "RFC822.SIZE"]).items()})  # fmt: skip
            client.idle()
            place.deliver(way.user, 3)
            seen.append(client.idle_check(timeout=0))
            client.idle_done()
            seen += [client.folder_status("INBOX", "MESSAGES"), client.logout()]
            return seen

    seen = place.same("imap", mode, work, letters=2)
    assert seen[9] == {1: letter(1), 2: letter(2, LONG)}


@pytest.mark.parametrize("mode", MODES)
def test_imapclient_with_sasl_and_a_wrong_password(place: Place, mode: str) -> None:
    def work(way: Way) -> list[str]:
        heard = []
        with imap_client(way) as client:
            for log_in in (client.login, client.plain_login):
                with pytest.raises(imapclient.exceptions.LoginError) as raised:
                    log_in(way.user, "wrong")
                heard.append(str(raised.value))
            client.plain_login(way.user, way.password)
            heard.append(str(client.folder_exists("INBOX")))
        return heard

    heard = place.same("imap", mode, work, status=REFUSED)
    assert "[AUTHENTICATIONFAILED]" in heard[0]
    assert heard[2] == "True"


# -- aioimaplib -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def aio(way: Way) -> AsyncIterator[aioimaplib.IMAP4]:
    """aioimaplib's client, which knows no STARTTLS, before its login."""
    if way.mode == "tls":
        client = aioimaplib.IMAP4_SSL(way.host, way.port, timeout=10, ssl_context=way.context)
    else:
        client = aioimaplib.IMAP4(way.host, way.port, timeout=10)
    await client.wait_hello_from_server()
    try:
        yield client
    finally:
        await client.logout()
        client.protocol.transport.abort()
        for _ in range(3):  # the loop closes the socket in one of its next rounds
            await asyncio.sleep(0)


def plainly(seen: aioimaplib.Response) -> tuple[str, list[bytes]]:
    """An answer that can be compared."""
    return seen.result, [bytes(line) for line in seen.lines]


def awaited(session: Callable[[Way], Any]) -> Callable[[Way], Any]:
    """Work that is a coroutine."""
    return lambda way: asyncio.run(session(way))


@pytest.mark.parametrize("mode", ["plain", "tls"])
def test_aioimaplib(place: Place, mode: str) -> None:
    async def session(way: Way) -> list[Any]:
        async with aio(way) as client:
            seen = [(await client.login(way.user, way.password)).result]
            seen += [plainly(await client.select()), plainly(await client.list('""', "*"))]
            seen += [plainly(await client.append(letter(6, LONG)))]
            seen += [plainly(await client.uid("fetch", "1:3", "(FLAGS BODY.PEEK[])"))]
            idle = await client.idle_start(timeout=10)
            await asyncio.to_thread(place.deliver, way.user, 3)
            pushed = await client.wait_server_push()
            client.idle_done()
            seen += [plainly(await asyncio.wait_for(idle, 10))]
            seen += [("pushed", [bytes(line) for line in pushed if b"EXISTS" in line])]
            return seen

    seen = place.same("imap", mode, awaited(session), letters=2)
    assert seen[0] == "OK"
    assert [part for part in seen[4][1] if len(part) > 2000] == [
        letter(1), letter(2, LONG), letter(6, LONG),
    ]  # fmt: skip
    assert seen[6][1] == [b"4 EXISTS"]


@pytest.mark.parametrize("mode", ["plain", "tls"])
def test_aioimaplib_with_a_wrong_password(place: Place, mode: str) -> None:
    async def session(way: Way) -> list[Any]:
        async with aio(way) as client:
            refused = plainly(await client.login(way.user, "wrong"))
            accepted = await client.login(way.user, way.password)
            return [refused, accepted.result, client.get_state()]

    refused, *rest = place.same("imap", mode, awaited(session), status=REFUSED)
    assert refused[0] == "NO"
    assert b"[AUTHENTICATIONFAILED]" in refused[1][0]
    assert rest == ["OK", "AUTH"]


# -- poplib -----------------------------------------------------------------------------------


@contextlib.contextmanager
def pop(way: Way) -> Iterator[poplib.POP3]:
    """Python's own client before its login."""
    if way.mode == "tls":
        client: poplib.POP3 = poplib.POP3_SSL(way.host, way.port, context=way.context, timeout=10)
    else:
        client = poplib.POP3(way.host, way.port, timeout=10)
    try:
        if way.mode == "starttls":
            client.stls(way.context)
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("mode", MODES)
def test_poplib(place: Place, mode: str) -> None:
    def work(way: Way) -> list[Any]:
        with pop(way) as client:
            assert "UIDL" in client.capa()
            client.user(way.user)
            client.pass_(way.password)
            seen: list[Any] = [client.stat(), client.list(), client.capa()]
            seen.append([line[:10] for line in client.uidl()[1]])  # behind that is UIDVALIDITY
            seen += [client.top(2, 3), client.retr(1), client.retr(2), client.dele(1)]
            seen += [client.noop(), client.rset(), client.dele(2), client.list(3), client.quit()]
        with pop(way) as client:
            client.user(way.user)
            client.pass_(way.password)
            seen += [client.list(), client.retr(2), client.quit()]
        return seen

    seen = place.same("pop3", mode, work, letters=3)
    assert b"\r\n".join(seen[5][1]) + b"\r\n" == letter(1)
    assert b"\r\n".join(seen[6][1]) + b"\r\n" == letter(2, LONG)
    assert len(seen[13][1]) == 2


@pytest.mark.parametrize("mode", MODES)
def test_poplib_with_a_wrong_password(place: Place, mode: str) -> None:
    def work(way: Way) -> list[Any]:
        heard: list[Any] = []
        with pop(way) as client:
            client.user(way.user)
            with pytest.raises(poplib.error_proto) as raised:
                client.pass_("wrong")
            heard.append(str(raised.value))
            client.user(way.user)
            client.pass_(way.password)
            return [*heard, client.stat(), client.quit()]

    heard = place.same("pop3", mode, work, letters=1, status=REFUSED)
    assert heard[0].startswith("b'-ERR [AUTH]")
    assert heard[1][0] == 1


@pytest.mark.parametrize("mode", MODES)
def test_pop3_pipelined(place: Place, mode: str) -> None:
    """All of a session but its end in one write, as RFC 2449 has it."""

    def work(way: Way) -> list[bytes]:
        with pop(way) as client:
            client.sock.sendall(
                f"USER {way.user}\r\nPASS {way.password}\r\nSTAT\r\nRETR 2\r\nDELE 1\r\n"
                "FROB\r\n".encode()
            )
            answers = up_to(client.file, b"-ERR")
            client.sock.sendall(b"QUIT\r\n")
            return answers[2:] + up_to(client.file, b"+OK")

    said = place.same("pop3", mode, work, letters=2)
    assert said[0].startswith(b"+OK 2 ")
    text = b"".join(line.removeprefix(b".") if line[:2] == b".." else line for line in said)
    assert text.count(letter(2, LONG)) == 1
    assert said[-1] == b"+OK Logging out, messages deleted.\r\n"
