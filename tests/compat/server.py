"""A mail server by script: what it answers is a list of rules, what it heard a list of lines.

A rule is ``PATTERN => ACTIONS``. The pattern is a regular expression that a command, without its
tag, begins with in upper or lower case; ``greeting`` is the time ahead of the first, ``literal``
a literal that waits. Actions are lines to say, with ``TAG`` for the command's, parted by `` / ``,
and

    (tls)      a handshake            (silence)  nothing more is said
    (close)    the connection ends    (reset)    it ends with RST
    (read)     something is read, whatever it is

The first rule that fits counts. Without a pattern, ``(refused)`` means that nothing listens and
``(ssl)`` that all connections start with TLS.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from contextlib import suppress

from tests.compat.dialogue import to_bytes, to_text

DEFAULTS = {
    "imap4": """
        greeting => * OK ready
        literal => + go on
        CAPABILITY => * CAPABILITY IMAP4rev1 IDLE / TAG OK done
        LOGIN .*"wrong" => TAG NO [AUTHENTICATIONFAILED] wrong password
        STARTTLS => TAG OK begin / (tls)
        LOGOUT => * BYE bye / TAG OK done / (close)
        => TAG OK done""",
    "pop3": """
        greeting => +OK hi <1.2@x>
        PASS wrong => -ERR [AUTH] wrong password
        CAPA => +OK / UIDL / .
        STLS => +OK begin / (tls)
        QUIT => +OK bye / (close)
        => +OK done""",
    # The base64 of "wrong" behind a name of four letters.
    "managesieve": """
        greeting => "IMPLEMENTATION" "fake" / "SASL" "PLAIN" / OK "hi"
        AUTHENTICATE .*d3Jvbmc= => NO "wrong password"
        STARTTLS => OK "begin" / (tls) / "IMPLEMENTATION" "fake" / "SASL" "PLAIN" / OK "hi"
        LOGOUT => OK "bye" / (close)
        => OK "done" """,
}

_SECONDS = 40.0  # longer than any daemon lets a dialogue last
_LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n$")
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"|\{(\d+)\+?\}\r\n|([^ \r\n]+)', re.DOTALL)


class Server:
    """Listens from the start, talks in a context, one connection after the other."""

    def __init__(self, protocol: str, rules: list[str], context: ssl.SSLContext) -> None:
        grammar = protocol.rstrip("s")
        self._tagged = grammar == "imap4"
        self._context = context
        self._ssl = "(ssl)" in rules
        self._rules = [
            (pattern.strip(), actions.strip())
            for pattern, arrow, actions in (
                rule.partition("=>") for rule in [*rules, *DEFAULTS[grammar].strip().splitlines()]
            )
            if arrow
        ]
        self.heard: list[str] = []
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._listens = "(refused)" not in rules
        if self._listens:
            self._socket.listen(8)
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Server:
        if self._listens:
            self._threads.append(threading.Thread(target=self._serve))
            self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            sock.settimeout(_SECONDS)
            with suppress(OSError), sock:  # how a daemon goes is no matter here
                _Talk(self, sock).run()

    def actions(self, command: str) -> list[str]:
        """What to do about a command."""
        for pattern, actions in self._rules:
            if re.match(pattern, command, re.IGNORECASE):
                return actions.split(" / ")
        return ["(silence)"]


class _Talk:
    """One connection."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._reader = sock.makefile("rb")

    def run(self) -> None:
        server = self._server
        server.heard.append("(connect)")
        try:
            if server._ssl:
                self._handshake()
            if self._do("greeting", "*"):
                while (line := self._reader.readline()) and self._answer(line):
                    pass
        finally:
            self._reader.close()
            self._sock.close()

    def _answer(self, line: bytes) -> bool:
        """Hear a command to its end and answer it; False when the connection is to end."""
        server = self._server
        while literal := _LITERAL.search(line):
            if not literal[2] and not server._tagged:
                break
            if not literal[2]:
                tag = line.decode("latin-1").split(" ")[0]
                actions = server.actions("literal")
                if actions[0].startswith("TAG"):
                    server.heard.append(to_text(line))
                    return self._act(actions, tag)
                self._act(actions, tag)
            more = self._reader.read(int(literal[1])) + self._reader.readline()
            if not more:
                break
            line += more
        tag, _, command = line.decode("latin-1").partition(" ") if server._tagged else ("", "", "")
        if command.upper().startswith("LOGIN "):
            line = f"{tag} LOGIN ".encode() + _quoted(line.split(b" ", 2)[2]) + b"\r\n"
        server.heard.append(to_text(line))
        text = line.decode("latin-1").rstrip("\r\n")
        return self._do(text.partition(" ")[2] if server._tagged else text, tag)

    def _do(self, command: str, tag: str) -> bool:
        return self._act(self._server.actions(command), tag)

    def _act(self, actions: list[str], tag: str) -> bool:
        said = b""
        for action in actions:
            if action not in ("(tls)", "(close)", "(reset)", "(silence)", "(read)"):
                said += to_bytes(action.replace("TAG", tag))
                continue
            self._sock.sendall(said)
            said = b""
            if action == "(tls)":
                self._handshake()
            elif action == "(read)":
                self._sock.recv(65536)
            elif action == "(silence)":
                self._reader.read()
                return False
            else:
                if action == "(reset)":
                    linger = struct.pack("ii", 1, 0)
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
        self._sock.sendall(said)
        return True

    def _handshake(self) -> None:
        self._reader.close()
        self._sock = self._server._context.wrap_socket(self._sock, server_side=True)
        self._reader = self._sock.makefile("rb")
        self._server.heard.append("(tls)")


def _quoted(arguments: bytes) -> bytes:
    """LOGIN's arguments in one spelling, whether they were quoted, literals or bare."""
    words = []
    at = 0
    while match := _WORD.search(arguments, at):
        quoted, size, bare = match.groups()
        at = match.end()
        if size is not None:
            words.append(arguments[at : at + int(size)])
            at += int(size)
        else:
            words.append(re.sub(rb"\\(.)", rb"\1", quoted) if bare is None else bare)
    return b" ".join(b'"%b"' % re.sub(rb'(["\\])', rb"\\\1", word) for word in words)
