"""Plays: what a client, its server and an administrator do, one step a line.

    client: a LOGIN ann secret      someone says a line; a ``\\c`` at its end: without CRLF
    server: a \\n b                  ``\\n`` is a line end: both in one packet
    client < a OK                   someone hears this; what is heard is compared to its end
    server comes                    the next connection to the servers' port
    client is gone                  it has been hung up on
    client ends                     it sends no more; goes: it closes; resets: without a word
    other comes                     another client; server2: the server's next connection;
                                    stranger: a client that does not trust our certificate;
                                    mute: one that connects, and says nothing
    log Auth:.*ok                   a line of the log matches
    who ann / kick ann / trace ann  what `perditionctl` asks, and what it answers; the first two
                                    wait until somebody is meant
    lookups 1                       so many look-ups are over
    servers                         what is known of each server
    until 2: client < * BYE         no later than that many seconds from now, as any step
    after 1: server comes           no earlier
    reload / TERM                   the daemon is told to read its file anew, or to end

`play` gives all that can be seen of it, without what differs from one run to the next.
"""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests.servers.control import ask, rows
from tests.servers.daemon import BIN, Daemon, within
from tests.servers.ports import free_port, wait_for

SLOW = "import perdition.server.setup as s; s.load_shortcuts = lambda config: None"
_SECONDS = 10
_ENDS = "^(Closing |Fatal Error: Timeout|Fatal error establishing SSL|address_connection_limit)"
_MASKS = (
    (r"((?:127\.0\.0\.1|localhost|invalid|null\)):)\d+", r"\1PORT"),
    (r'(port" ")\d+', r"\1PORT"),
    (r'("x-session-id" ")[^"]*', r"\1ID"),
    (r"(ready on \S+) [0-9a-f]{8}", r"\1 MARK"),
    (r"\[\d+\]", "[PID]"),
    (r"(?m)^\d{4}-\S+Z ", ""),
    (r"/\S*/trace", "FILE"),
)


class Seen(NamedTuple):
    """What everybody saw of a play."""

    heard: dict[str, str]
    log: list[str]
    counts: dict[str, float]
    answers: list[object]


def masked(text: str) -> str:
    """Without ports, process numbers, times and names that are never the same."""
    for pattern, instead in _MASKS:
        text = re.sub(pattern, instead, text)
    return text


class Peer:
    """One end of a connection, and all that it has heard."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_SECONDS)
        self.sock = sock
        self.heard = b""
        self._at = 0  # what was waited for already

    def say(self, text: str) -> None:
        """Send a line, or several in one packet."""
        data = text.replace(r"\n", "\r\n").replace(r"\xe9", "\xe9").encode("latin-1")
        self.sock.sendall(data.removesuffix(rb"\c") if data.endswith(rb"\c") else data + b"\r\n")

    def hear(self, text: str) -> None:
        """Wait for this."""
        wanted = text.encode()
        while (found := self.heard.find(wanted, self._at)) < 0:
            assert self._more(), f"{text!r} is not in {self.heard!r}"
        self._at = found + len(wanted)

    def rest(self) -> None:
        """Hear all there is to the end."""
        while self._more():
            pass

    def end(self, how: str) -> None:
        """Send no more, close, or reset."""
        if how == "resets":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "ends":
            self.sock.shutdown(socket.SHUT_WR)
        else:
            self.sock.close()

    def over(self) -> None:
        """Say that there is no more to come, if it was not said; with TLS its peer comes first."""
        if not isinstance(self.sock, ssl.SSLSocket):
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def _more(self) -> bool:
        if self.sock.fileno() < 0:
            return False
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
            self.heard += b"(reset)"
            self.sock.close()
        self.heard += data
        return bool(data)


class Stage(Daemon):
    """A daemon with one worker, its servers' port, and the plays that are played with it.

    In `options` GOOD is the port of a server that answers, NOBODY one where nobody listens, FULL
    one that lets nobody in; HERE is the daemon's folder.
    """

    def __init__(
        self, folder: Path, options: Iterable[str], files: dict[str, str], changes: str
    ) -> None:
        folder.mkdir()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(_SECONDS)
        self._full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._inside = socket.create_connection(self._full.getsockname())
        words = {
            "GOOD": str(self._listening.getsockname()[1]), "NOBODY": str(free_port()),
            "FULL": str(self._full.getsockname()[1]), "HERE": str(folder),
        }  # fmt: skip

        def filled(text: str) -> str:
            return re.sub("GOOD|NOBODY|FULL|HERE", lambda word: words[word[0]], text)

        for name, text in files.items():
            (folder / name).write_text(filled(text))
        self.metrics_port = free_port()
        super().__init__(
            folder, "workers 1", f"metrics_listen 127.0.0.1:{self.metrics_port}",
            *(filled(option) for option in options),
        )  # fmt: skip
        if changes:
            self.wrapper = within(changes)
        self.context: ssl.SSLContext | None = None  # of its clients, if they speak TLS
        self._before: dict[str, float] = {}
        self._came = self._first = 0  # clients of a play; where its log begins

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for sock in (self._listening, self._inside, self._full):
            sock.close()

    def counts(self) -> dict[str, float]:
        """All counters; of what took time, how often."""
        if self.process.poll() is not None:
            return {}
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            masked(f"{sample.name} {sorted(sample.labels.items())}"): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.endswith(("_total", "_count"))
        }

    def play(self, text: str) -> Seen:
        """Carry out the steps; then everybody leaves."""
        self._before = before = self.counts()
        self._first = len(self.lines) if self.log.exists() else 0
        peers: dict[str, Peer] = {}
        answers: list[object] = []
        self._came = 0
        try:
            self._enter(peers, "client")
            for line in filter(str.strip, text.splitlines()):
                self._step(line.strip(), peers, answers)
            for peer in peers.values():
                peer.over()
            for peer in peers.values():
                peer.rest()
        finally:
            for peer in peers.values():
                peer.sock.close()
        self._logged(_ENDS, self._came)
        if "TERM" in text:
            self.process.wait(_SECONDS)
        after = self.counts()
        log = [masked(line) for line in self.lines[self._first :]]
        return Seen(
            {name: masked(peer.heard.decode("latin-1")) for name, peer in peers.items()},
            sorted(log) if self._came > 1 else log,  # who goes first is chance
            {name: value - before.get(name, 0) for name, value in after.items()
             if value != before.get(name, 0)},
            answers,
        )  # fmt: skip

    def _enter(self, peers: dict[str, Peer], name: str) -> None:
        if name.startswith("server"):
            peers[name] = Peer(self._listening.accept()[0])
            return
        sock = socket.create_connection(("127.0.0.1", self.port), _SECONDS)
        self._came += 1
        if name == "mute":
            peers[name] = Peer(sock)
            return
        if name == "stranger":  # who does not trust us
            with sock, suppress(ssl.SSLError):
                ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
            return
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_hostname="localhost")
        peers[name] = Peer(sock)

    def _step(self, step: str, peers: dict[str, Peer], answers: list[object]) -> None:
        if limit := re.match(r"(until|after) ([\d.]+): ", step):
            began = time.monotonic()
            self._step(step[limit.end() :], peers, answers)
            took = time.monotonic() - began
            assert (took < float(limit[2])) == (limit[1] == "until"), f"{step} takes {took:.3} s"
            return
        word, _, rest = step.partition(" ")
        if step == "TERM":
            self.process.send_signal(signal.SIGTERM)
        elif word == "lookups":
            wait_for(lambda: self._lookups() >= int(rest), "a look-up lasts")
        elif step == "reload":
            self.reload()
        elif word == "log":
            self._logged(rest, 1)
        elif word in ("who", "kick"):
            wait_for(lambda: rows(ask(self.control, verb="who", match=rest)), f"nobody is {rest}")
            for row in rows(ask(self.control, verb=word, match=rest)):
                answers.append({
                    key: masked(str(row.get(key)))
                    for key in ("user", "server", "logged_in", "client", "received", "sent")
                })  # fmt: skip
        elif step == "servers":
            for row in rows(ask(self.control, verb="servers")):
                known = ("server", "state", "sessions", "answers", "failures")
                answers.append({key: masked(str(row.get(key))) for key in known})
        elif word == "trace":
            answers.append(self._trace(rest))
        elif word.endswith(":"):
            peers[word[:-1]].say(rest)
        elif rest == "is gone":
            peers[word].rest()
        elif rest == "comes":
            self._enter(peers, word)
        elif rest.startswith("< "):
            peers[word].hear(rest[2:])
        else:
            peers[word].end(rest)

    def _lookups(self) -> float:
        """Those of the play that are over."""
        return sum(
            value - self._before.get(name, 0)
            for name, value in self.counts().items()
            if name.startswith("perdition_lookups_total")
        )

    def _logged(self, pattern: str, count: int) -> None:
        """Wait for so many such lines of the play."""
        compiled = re.compile(pattern)
        wait_for(
            lambda: len(list(filter(compiled.search, self.lines[self._first :]))) >= count,
            f"no {count} lines match {pattern!r}",
        )

    def _trace(self, words: str) -> str:
        """Trace a user from now on; with --stop, what the trace shows."""
        file = self.folder / "trace"
        more = [] if "--stop" in words else [f"--file={file}"]
        subprocess.run(
            [BIN / "perditionctl", f"--socket={self.control}", "trace", *words.split(), *more],
            check=True, capture_output=True,
        )  # fmt: skip
        return "" if more else masked(file.read_text())
