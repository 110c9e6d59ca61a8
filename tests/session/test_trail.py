"""The lines of a connection: what a session that lasts does not keep is in its later lines, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdition.log import Log, open_target
from perdition.session.trail import Address, Trail, TrailTerms
from perdition.wire.base import Login, Origin, Reason

CLIENT: Address = ("192.0.2.7", 51234)
REACHED: Address = ("2001:db8::1", 993)
FT = "192.0.2.7:51234->2001:db8::1:993"


def make_log(path: Path, *, as_json: bool = False, debug: bool = False) -> Log:
    """A log that goes to a file."""
    return Log(open_target(str(path), ""), "perdition.imap4s", as_json=as_json, debug=debug)


def live(trail: Trail, login: Login, failure: Reason | None = None) -> None:
    """Go through all that a session says when its Auth line is said twice."""
    trail.connected()
    trail.origin()
    trail.name(login)
    trail.verdict(login, "ssl", "plaintext", "10.0.0.5:143", failure)
    if failure is None:
        trail.said_at = 100
        trail.relog(400)
        trail.closed(11, 222)


def test_nobody_forges_a_line(tmp_path: Path) -> None:
    trail = Trail(make_log(tmp_path / "log"), TrailTerms("IMAP4S", "143"), CLIENT, REACHED)
    login = Login(b"k\nim", b"secret", b"bo\x1bss")
    trail.name(login)
    trail.verdict(login, "ssl", "plaintext", "10.0.0.5\n:143", None)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert (
        'authorisation_id="bo\\x1bss" authentication_id="k\\nim" server="10.0.0.5\\n:143"' in line
    )


@pytest.mark.parametrize(("debug", "passwd"), [(False, ""), (True, ' passwd="se\\"cret"')])
def test_lines(tmp_path: Path, debug: bool, passwd: str) -> None:
    terms = TrailTerms("IMAP4S", "143", log_passwd="ok", connect_relog=300)
    trail = Trail(make_log(tmp_path / "log", debug=debug), terms, CLIENT, REACHED)
    assert trail.relog_at == 0
    live(trail, Login(b'k"im', b'se"cret', b"boss"))
    assert trail.relog_at == 700
    ids = 'authorisation_id="boss" authentication_id="k\\"im"'
    auth = (
        f"Auth: {FT} client-secure=ssl {ids}{passwd} "
        'server="10.0.0.5:143" protocol=IMAP4S server-secure=plaintext status="ok"'
    )
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition("]: ")[2] for line in lines] == [
        f"Connect:  {FT}", auth, auth, f"Closing session: {FT} {ids} received=11 sent=222",
    ]  # fmt: skip


def test_json_lines_name_both_ends_and_the_session_to_the_end(tmp_path: Path) -> None:
    terms = TrailTerms("IMAP4S", "143", connect_relog=300, sessions=iter(["one"]))
    trail = Trail(make_log(tmp_path / "log", as_json=True), terms, CLIENT, REACHED)
    live(trail, Login(b"kim", b"secret"))
    ends = {"client": "192.0.2.7", "client_port": 51234, "local": "2001:db8::1", "local_port": 993}
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record["event"] for record in records] == ["connect", "auth", "relog", "close"]
    assert all(record | ends == record for record in records)
    assert [record.get("session") for record in records] == [None, "one", "one", "one"]
    assert records[1]["status"] == "ok" and records[3]["received"] == 11


def test_the_ends_are_told_at_any_time(tmp_path: Path) -> None:
    log, terms = make_log(tmp_path / "log"), TrailTerms("IMAP4S", "143")
    link: Address = ("fe80::1%eth0", 993)
    trail = Trail(log, terms, CLIENT, link)
    assert trail.ends() == (CLIENT, link)
    login = Login(b"kim", b"secret")
    live(trail, login, Reason.REFUSED)
    assert isinstance(trail.origin(), Origin), "the next login tells another server"
    live(trail, login)
    assert trail.ends() == (CLIENT, link)
    assert Trail(log, terms, None, None).ends() == (None, None)
