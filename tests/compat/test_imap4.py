"""IMAP4 beside Perdition 2.2: the same dialogues, and a list of every answer that differs."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.daemon import Daemon
from tests.servers.lines import Lines
from tests.servers.perdition2 import perdition_2


class Server:
    """An IMAP server that lets `secret` in. A context that ends with it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.logins: list[list[str]] = []  # words of each LOGIN, in the order in which they came
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with Lines(sock) as lines:
                self._talk(lines)

    def _talk(self, lines: Lines) -> None:
        lines.say("* OK ready")
        while command := lines.hear():
            while literal := re.search(r"\{\d+\}$", command):  # 2.2's way; ours quotes
                lines.say("+ go on")
                command = command[: literal.start()] + lines.hear()
            tag, _, rest = command.partition(" ")
            if rest == "CAPABILITY":
                lines.say("* CAPABILITY IMAP4rev1 IDLE")
            if rest.startswith("LOGIN"):
                words = [w.strip('"').replace('\\"', '"') for w in rest.split(" ")[1:]]
                self.logins.append(words)
                if words[-1] != "secret":
                    lines.say(f"{tag} NO [AUTHENTICATIONFAILED] wrong password")
                    continue
            if rest == "LOGOUT":
                lines.say(f"* BYE\r\n{tag} OK bye")
                return
            lines.say(f"{tag} OK done")


PLAIN = "plain English"
MATE = "a BAD Unrecognised command, mate"
NO_ARGUMENT = "a BAD Argument given to {} but there shouldn't be one{}"
TRY_LOGIN = ("BAD Mate, try LOGIN <username> <passwd>", "BAD Try LOGIN <username> <passwd>")
WRONG = "a NO [AUTHENTICATIONFAILED] wrong password"

# What 2.2 says, what we say, and why.
DIFFERENCES = {
    ("* BYE IMAP4 server logging out, mate / a OK LOGOUT",
     "* BYE IMAP4 server logging out / a OK LOGOUT"): PLAIN,
    **{(NO_ARGUMENT.format(name, ", mate"), NO_ARGUMENT.format(name, "")): PLAIN
       for name in ("CAPABILITY", "LOGOUT", "NOOP", "STARTTLS")},
    ("a BAD Mate, try AUTHENTICATE <mechanism>",
     "a BAD Try AUTHENTICATE <mechanism> [<initial response>]"): "RFC 4959",
    ("a BAD Missing command, mate", "a BAD Missing command"): PLAIN,
    ("a NO AUTHENTICATE mechanism not supported, mate",
     "a NO AUTHENTICATE mechanism not supported"): PLAIN,
    **{(f"{tag} {TRY_LOGIN[0]}", f"{tag} {TRY_LOGIN[1]}"): PLAIN for tag in "ab"},
    (f"a {TRY_LOGIN[0]}", WRONG): "a quote in a quoted string, RFC 3501",
    (MATE, "a BAD Unrecognised command"): PLAIN,
    (MATE, "a BAD Please log in first"): "the command is known",
    (MATE, '* ID ("name" "Perdition") / a OK ID'): "RFC 2971",
    ("a NO failed: Re-Authentication Failure", WRONG): "the server's own words and code",
}  # fmt: skip

# What only ours passes on to the server.
OUR_LOGINS = [['us"er', "wrong"]]

DIALOGUES = [
    ["a CAPABILITY", "a NOOP", "a LOGOUT"],
    ["a LOGIN user secret", "b NOOP", "c LOGOUT"],
    ['a LOGIN "user" "secret"'],
    ["a LOGIN user wrong", "b LOGIN user secret"],
    ["a LOGIN", "b LOGIN user"],
    ["a LOGIN user secret more"],
    ["a login User secret"],
    ["a LOGIN {4}", "user {6}", "secret"],
    ['a LOGIN "us\\"er" wrong'],
    ["a LOGIN user@example.org secret"],
    ["a"],
    ["a FROB"],
    ["a SELECT INBOX"],
    ["a NOOP x"],
    ["a CAPABILITY x"],
    ["a LOGOUT x"],
    ["a STARTTLS x"],
    ["a ID NIL"],
    ["a AUTHENTICATE GSSAPI"],
    ["a AUTHENTICATE"],
    ["a ENABLE CONDSTORE"],
]


def replies(port: int, dialogue: list[str]) -> list[str]:
    """What is answered to each line, as one string a line."""
    with Lines.to(port) as lines:
        heard = [re.sub("[0-9a-f]{8}$", "HEX", lines.hear())]
        for said in dialogue:
            lines.say(said)
            block = [lines.hear()]
            while block[-1].startswith("* ") and not block[-1].startswith("* BAD"):
                block.append(lines.hear())
            heard.append(" / ".join(block))
        return heard


def ours(folder: Path, port: int, certificates: Path) -> Daemon:
    """Our daemon before a server."""
    return Daemon(
        folder, "outgoing_server 127.0.0.1", f"outgoing_port {port}", "workers 1",
        "failure_delay 0", "ssl_mode tls_listen", f"ssl_cert_file {certificates}/cert.pem",
        f"ssl_key_file {certificates}/key.pem", 'imap_capability "IMAP4rev1 IDLE"',
    )  # fmt: skip


def test_what_differs_from_2_2_is_on_the_list(
    need: Callable[[str], str], certificates: Path, tmp_path: Path
) -> None:
    program = need("perdition.imap4")
    seen: set[tuple[str, str]] = set()
    capability = ("--imap_capability", "IMAP4rev1 IDLE")
    with (
        Server() as server,
        perdition_2(program, server.port, certificates, *capability) as old,
        ours(tmp_path, server.port, certificates) as new,
        ThreadPoolExecutor(len(DIALOGUES)) as threads,
    ):
        theirs = list(threads.map(lambda dialogue: replies(old, dialogue), DIALOGUES))
        logins, server.logins = sorted(server.logins), []
        for dialogue, said in zip(DIALOGUES, theirs, strict=True):
            seen |= set(zip(said, replies(new.port, dialogue), strict=True))
        assert sorted(server.logins) == sorted(logins + OUR_LOGINS)
    differing = {pair for pair in seen if pair[0] != pair[1]}
    assert differing == set(DIFFERENCES)
