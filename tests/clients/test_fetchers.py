"""Programs that fetch or synchronise mail: mbsync, offlineimap, fetchmail, getmail and mpop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.place import LONG, MARKS, MODES, REFUSED, Place, Way, letter

Need = Callable[[str], str]
Folders = dict[str, list[tuple[str, bytes]]]


def stored(maildirs: Path) -> Folders:
    """What is in the folders of a tree: each mail's flags and text."""
    found: Folders = {}
    for path in [*maildirs.rglob("cur/*"), *maildirs.rglob("new/*")]:
        flags = path.name.partition(":2,")[2]
        folder = str(path.parent.parent.relative_to(maildirs))
        found.setdefault(folder, []).append((flags, MARKS.sub(b"", path.read_bytes())))
    return {folder: sorted(mails) for folder, mails in sorted(found.items())}


def local(number: int, size: int = 0) -> bytes:
    """A letter as it is in a file."""
    return letter(number, size).replace(b"\r\n", b"\n")


def made(maildirs: Path, folder: str) -> Path:
    """A folder of a tree."""
    for part in ("cur", "new", "tmp"):
        (maildirs / folder / part).mkdir(parents=True, exist_ok=True)
    return maildirs / folder


def two_ways(place: Place, way: Way, sync: Callable[[], object]) -> list[Folders]:
    """Synchronise twice, with news on both sides each time; return what either side has then."""
    here = way.folder / "mail"
    (made(here, "INBOX") / "cur/1.x:2,S").write_bytes(local(9))
    (made(here, "Work") / "cur/2.x:2,").write_bytes(local(8, LONG))
    sync()
    first = stored(here)
    assert [text for _, text in first["INBOX"]] == [local(1), local(2, LONG), local(3), local(9)]
    for path in (here / "INBOX").rglob("*/*"):
        if path.is_file() and b"\nSubject: Letter 1\n" in path.read_bytes():
            path.rename(here / "INBOX/cur" / (path.name.partition(":2,")[0] + ":2,FS"))
        elif path.is_file() and b"\nSubject: Letter 3\n" in path.read_bytes():
            path.unlink()
    place.deliver(way.user, 4)
    with place.owner(way.user) as owner:
        owner.select()
        owner.store("2", "+FLAGS", "\\Answered \\Deleted")
        owner.expunge()
        owner.select("Work")
        owner.store("1", "+FLAGS", "\\Flagged")
        owner.logout()
    sync()
    return [first, stored(here), place.state(way.user)]


AFTER = {1: "FS", 4: "", 9: "S"}  # letters in the inbox when both sides have had their way


def as_it_should_be(outcome: list[Folders]) -> None:
    """Check that news of either side are on both."""
    _, here, there = outcome
    for number, flags in AFTER.items():
        assert (flags, local(number)) in here["INBOX"]
        assert (flags, letter(number)) in there["INBOX"]
    assert len(here["INBOX"]) == len(there["INBOX"]) == len(AFTER)
    assert here["Work"] == [("F", local(8, LONG))]
    assert there["Work"] == [("F", letter(8, LONG))]


# -- mbsync -----------------------------------------------------------------------------------


def mbsync(way: Way, program: str, mechanism: str, password: str = "", status: int = 0) -> str:
    """Run mbsync; return its complaints."""
    tls = {"plain": "None", "tls": "IMAPS", "starttls": "STARTTLS"}[way.mode]
    quoted = (password or way.password).replace("\\", "\\\\").replace('"', '\\"')
    here = made(way.folder / "mail", "INBOX").parent
    (way.folder / "mbsyncrc").write_text(
        f"IMAPAccount a\nHost {way.host}\nPort {way.port}\nUser {way.user}\nPass \"{quoted}\"\n"
        f"SSLType {tls}\nCertificateFile {way.authority}\nAuthMechs {mechanism}\n\n"
        "IMAPStore far\nAccount a\n\n"
        f"MaildirStore near\nPath {here}/\nInbox {here}/INBOX\nSubFolders Verbatim\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSync All\n"
        f"SyncState {way.folder}/sync-\n"
    )  # fmt: skip
    return way.run(program, "-c", way.folder / "mbsyncrc", "all", status=status)[1]


@pytest.mark.parametrize("mode", MODES)
def test_mbsync(place: Place, need: Need, mode: str) -> None:
    program = need("mbsync")
    mechanism = "LOGIN" if mode == "plain" else "PLAIN"
    as_it_should_be(place.same("imap", mode, lambda way: two_ways(
        place, way, lambda: mbsync(way, program, mechanism)), letters=3))  # fmt: skip


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
def test_mbsync_with_a_wrong_password(place: Place, need: Need, mechanism: str) -> None:
    program = need("mbsync")
    complaint = place.same("imap", "starttls", lambda way: mbsync(
        way, program, mechanism, password="wrong", status=1), status=REFUSED)  # fmt: skip
    assert "returned an error: NO [AUTHENTICATIONFAILED] Authentication failed." in complaint


# -- offlineimap ------------------------------------------------------------------------------


# Its threads share one TLS state. After STARTTLS, 1.3's tickets wake the reader while the writer
# writes, and OpenSSL finds that out or they wait for each other, without us between as well.
TLS_1_2 = """openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = latest
[latest]
MaxProtocol = TLSv1.2
"""


def offlineimap(way: Way, program: str, password: str = "", status: int = 0) -> str:
    """Run offlineimap; return its complaints."""
    tls = {"plain": "no", "tls": "yes", "starttls": "no"}[way.mode]
    starttls = "yes" if way.mode == "starttls" else "no"
    (way.folder / "offlineimaprc").write_text(
        f"[general]\naccounts = a\nmetadata = {way.folder}/meta\nfsync = false\n"
        "[Account a]\nlocalrepository = near\nremoterepository = far\n"
        f"[Repository near]\ntype = Maildir\nlocalfolders = {way.folder}/mail\n"
        f"[Repository far]\ntype = IMAP\nremotehost = {way.host}\nremoteport = {way.port}\n"
        f"remoteuser = {way.user}\nremotepass = {password or way.password}\n"
        f"ssl = {tls}\nstarttls = {starttls}\nsslcacertfile = {way.authority}\n"
        "auth_mechanisms = PLAIN, LOGIN\n"
    )
    command = [program, "-o", "-1", "-c", str(way.folder / "offlineimaprc"), "-u", "quiet"]
    if way.mode == "starttls":
        (way.folder / "openssl.cnf").write_text(TLS_1_2)
        command = ["env", f"OPENSSL_CONF={way.folder}/openssl.cnf", *command]
    said, complaint = way.run(*command, status=status)
    return way.clean(said.decode()) + complaint


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", MODES)
def test_offlineimap(place: Place, need: Need, mode: str) -> None:
    program = need("offlineimap")
    as_it_should_be(place.same("imap", mode, lambda way: two_ways(
        place, way, lambda: offlineimap(way, program)), letters=3))  # fmt: skip


def test_offlineimap_with_a_wrong_password(place: Place, need: Need) -> None:
    program = need("offlineimap")
    complaint = place.same("imap", "tls", lambda way: offlineimap(
        way, program, password="wrong", status=1), status=REFUSED)  # fmt: skip
    assert "AUTHENTICATIONFAILED" in complaint


# -- fetchmail, getmail, mpop -----------------------------------------------------------------


def fetchmail(way: Way, program: str, protocol: str, password: str = "", status: int = 0) -> str:
    """Run fetchmail, which hands each mail to a command; return what it says."""
    tls = f"sslcertck sslcertfile {way.authority}"
    tls = {"plain": "sslproto ''", "tls": f"ssl {tls}", "starttls": f"sslproto 'TLS1.2+' {tls}"}[
        way.mode
    ]
    quoted = (password or way.password).replace("\\", "\\\\")
    path = way.folder / "fetchmailrc"
    path.write_text(
        "set no bouncemail\nset invisible\n"
        f"poll {way.host} protocol {protocol} port {way.port} auth password\n"
        f"user '{way.user}' password '{quoted}' fetchall {tls} mda \"/bin/sh -c 'cat >>mail'\"\n"
    )
    path.chmod(0o600)
    said, complaint = way.run(
        program, "-f", path, "-i", "ids", "--pidfile", "pid", "--nosyslog", status=status
    )
    return way.clean(said.decode()) + complaint


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("mode", MODES)
def test_fetchmail(place: Place, need: Need, protocol: str, mode: str) -> None:
    program = need("fetchmail")

    def work(way: Way) -> list[object]:
        said = fetchmail(way, program, protocol)
        left = fetchmail(way, program, protocol, status=1)  # nothing new
        return [said, left, (way.folder / "mail").read_bytes(), place.state(way.user)]

    said, _, mail, state = place.same(protocol, mode, work, letters=3)
    assert isinstance(said, str)
    assert "3 messages for USER at localhost" in said
    assert isinstance(mail, bytes)
    assert local(2, LONG).partition(b"\n\n")[2] in mail
    assert state == {"INBOX": []}


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_fetchmail_with_a_wrong_password(place: Place, need: Need, protocol: str) -> None:
    program = need("fetchmail")
    said = place.same(protocol, "tls", lambda way: fetchmail(
        way, program, protocol, password="wrong", status=3), status=REFUSED)  # fmt: skip
    assert "Authorization failure on USER@localhost" in said
    assert "(AUTHFAIL)" in said


def getmail(way: Way, program: str, protocol: str, status: int = 0) -> str:
    """Run getmail, which hands each mail to a command; return what it says."""
    kind = f"Simple{protocol.upper()}{'SSL' * (way.mode == 'tls')}Retriever"
    authority = f"ca_certs = {way.authority}\n" if way.mode == "tls" else ""
    (way.folder / "getmailrc").write_text(
        f"[retriever]\ntype = {kind}\n{authority}server = {way.host}\nport = {way.port}\n"
        f'username = {way.user}\npassword_command = ("cat", "{way.folder}/password")\n'
        "[destination]\ntype = MDA_external\npath = /bin/sh\nallow_root_commands = true\n"
        f'arguments = ("-c", "cat >>{way.folder}/mail")\nunixfrom = false\n'
        "[options]\ndelete = true\ndelivered_to = false\nreceived = false\nverbose = 1\n"
    )
    said, complaint = way.run(
        program, "--getmaildir", way.folder, "--rcfile", "getmailrc", status=status
    )
    return way.clean(said.decode()) + complaint


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("mode", ["plain", "tls"])  # it has no STARTTLS
def test_getmail(place: Place, need: Need, protocol: str, mode: str) -> None:
    program = need("getmail")

    def work(way: Way) -> list[object]:
        (way.folder / "password").write_text(way.password)
        said = getmail(way, program, protocol)
        mail = MARKS.sub(b"", (way.folder / "mail").read_bytes())
        return [said, mail, place.state(way.user)]

    _, mail, state = place.same(protocol, mode, work, letters=3)
    letters = local(1), local(2, LONG), local(3)
    assert mail == b"".join(b"Return-Path: <unknown>\n" + each for each in letters)
    assert state == {"INBOX": []}


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_getmail_with_a_wrong_password(place: Place, need: Need, protocol: str) -> None:
    program = need("getmail")

    def work(way: Way) -> str:
        (way.folder / "password").write_text("wrong")
        return getmail(way, program, protocol, status=127)

    said = place.same(protocol, "plain", work, status=REFUSED)
    assert "Authentication failed." in said


def mpop(way: Way, program: str, method: str, status: int = 0) -> str:
    """Run mpop; return what it says."""
    tls = {"plain": "tls off\n", "tls": "tls on\ntls_starttls off\n", "starttls": "tls on\n"}
    path = way.folder / "mpoprc"
    path.write_text(
        f"account default\nhost {way.host}\nport {way.port}\nuser {way.user}\n"
        f"passwordeval cat {way.folder}/password\nauth {method}\nreceived_header off\n"
        f"delivery maildir {made(way.folder / 'mail', 'INBOX')}\nuidls_file {way.folder}/uidls\n"
        f"keep off\n{tls[way.mode]}{'' if way.mode == 'plain' else 'tls_trust_file '}"
        f"{'' if way.mode == 'plain' else way.authority}\n"
    )
    path.chmod(0o600)
    said, complaint = way.run(program, "-C", path, "-Q", status=status)
    return way.clean(said.decode()) + complaint


@pytest.mark.parametrize(("mode", "method"), [
    ("plain", "user"), ("tls", "login"), ("starttls", "plain"),
])  # fmt: skip
def test_mpop(place: Place, need: Need, mode: str, method: str) -> None:
    program = need("mpop")

    def work(way: Way) -> list[object]:
        (way.folder / "password").write_text(way.password + "\n")
        said = mpop(way, program, method)
        return [said, stored(way.folder / "mail"), place.state(way.user)]

    _, here, there = place.same("pop3", mode, work, letters=3)
    assert here == {"INBOX": [("", local(1)), ("", local(2, LONG)), ("", local(3))]}
    assert there == {"INBOX": []}


@pytest.mark.parametrize("method", ["user", "plain", "login"])
def test_mpop_with_a_wrong_password(place: Place, need: Need, method: str) -> None:
    program = need("mpop")

    def work(way: Way) -> str:
        (way.folder / "password").write_text("wrong\n")
        return mpop(way, program, method, status=77)  # EX_NOPERM

    complaint = place.same("pop3", "starttls", work, status=REFUSED)
    assert "authentication failed" in complaint
