"""The one player: a file of dialogues with one daemon, 2.2 or ours.

Each dialogue has a client's address (127.F.N.1) and a server of its own; the popmap sends one to
the other by the query key ``\\i``. So all dialogues of a file are played at once with one daemon,
and its log still tells them apart.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from tests.compat.dialogue import NEW, OLD, DialogueFile, Line, to_bytes, to_text
from tests.compat.server import Server
from tests.servers.daemon import Daemon
from tests.servers.ports import listens, wait_for

PATIENCE = 20.0  # seconds until something that is to be said is given up
_LOGGED = re.compile(r"(Connect|Auth): |(Closing|Fatal|Timeout|Local) ")
_RECORD = re.compile(r"\w{3} [ \d]\d \d\d:\d\d:\d\d (?:\S+ )?perdition\S*\[(\d+)\]: (.*)")

Played = dict[str, list[Line]]  # by the dialogue's name


class Quiet:
    """How long to wait for what is not known yet; None of it where a file says what comes."""

    def __init__(self, first: float, more: float) -> None:
        self.first, self.more = first, more


RECORDING = {OLD: Quiet(7.5, 0.6), NEW: Quiet(3.0, 0.6)}

_given: set[int] = set()
_giving = Lock()


def _port() -> int:
    """A free port where the kernel takes none for the hundreds of connections under way."""
    with _giving:
        while True:
            port = random.randrange(10000, 32000)
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in _given:
                    _given.add(port)
                    return port


@contextmanager
def perdition_2(program: str, port: int, folder: Path, options: list[str]) -> Iterator[Path]:
    """Perdition 2.2 with a configuration file; gives its log."""
    folder.mkdir()
    config, log = folder / "perdition.conf", folder / "log"
    own = ["no_daemon", "no_lookup", "bind_address 127.0.0.1", f"listen_port {port}",
           "log_facility +", 'pid_file ""']  # fmt: skip
    config.write_text("".join(f"{line}\n" for line in [*own, *options]))
    with log.open("wb") as file:
        process = subprocess.Popen([program, "-f", str(config)], stderr=file, process_group=0)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, "2.2 does not listen")
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its children outlive it otherwise
        process.wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a file is played; `number` is a part of its clients' addresses."""

    number: int
    folder: Path
    certificates: Path
    need: Callable[[str], str]  # the path of a program


def play(file: DialogueFile, who: str, stage: Stage, quiet: Quiet | None = None) -> Played:
    """Play all dialogues of a file at once; what each heard, said and logged."""
    folder = stage.folder
    folder.mkdir(parents=True, exist_ok=True)
    command = f"perdition.{file.protocol}"
    addresses = [f"127.{stage.number}.{place}.1" for place in range(1, len(file.dialogues) + 1)]
    with ExitStack() as stack:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stage.certificates / "cert.pem", stage.certificates / "key.pem")
        servers = []
        for dialogue in file.dialogues:
            rules = dialogue.head.values("server") + file.head.values("server")
            servers.append(stack.enter_context(Server(file.protocol, rules, context)))
        port = _port()
        options = _options(file, addresses, servers, str(port), stage)
        if who == OLD:
            program = stage.need(command)
            log = stack.enter_context(perdition_2(program, port, folder / who, options))
        else:
            more = (f"listen_port {port}", "workers 1", "failure_delay 0", *options)
            log = stack.enter_context(Daemon(folder / who, *more, command=command)).log
        talks = [
            _Talk(dialogue.of(who), address, port, server.port, quiet)
            for dialogue, address, server in zip(file.dialogues, addresses, servers, strict=True)
        ]
        secure = bool(file.head.values("client"))
        with ThreadPoolExecutor(len(talks)) as threads:
            list(threads.map(lambda talk: talk.run(secure), talks))
        wanted = {talk.address: talk.count("L") for talk in talks}
        _wait_for_logs(log, wanted, quiet)
    logged = _logged(log)
    played: Played = {}
    for dialogue, talk, server in zip(file.dialogues, talks, servers, strict=True):
        ports = {port: "PROXY", server.port: "SERVER"}
        lines = talk.lines + [
            # 2.2 counts its tags on from one login to the next.
            Line("B", re.sub(r"^flim\w\w ", "TAG ", line).replace(f":{server.port}", ":SERVER"))
            for line in server.heard
        ]
        lines += [Line("L", _masked(line, ports)) for line in logged.get(talk.address, [])]
        played[dialogue.name] = lines
    return played


def _options(
    file: DialogueFile, addresses: list[str], servers: list[Server], own: str, stage: Stage
) -> list[str]:
    """The lines of the configuration, the same for both; and the popmap that they name."""
    options = file.head.values("option")
    own_keys = any(option.split()[0] in ("query_key", "map_library") for option in options)
    popmap = []
    for dialogue, address, server in zip(file.dialogues, addresses, servers, strict=True):
        lines = file.head.values("map") + dialogue.head.values("map")
        if not lines and not own_keys:
            lines = ["{key}: 127.0.0.1:{port}"]
        key = "^" + address.replace(".", r"\\.") + "$"
        popmap += [
            line.replace("{key}", key).replace("{port}", str(server.port)).replace("{own}", own)
            for line in lines
        ]
    path, certificates = stage.folder / "popmap.re", stage.certificates
    path.write_text("".join(f"{line}\n" for line in popmap))
    ca = stage.folder / "ca.pem"  # where 2.2 finds it without privileges, too
    ca.write_bytes((certificates / "ca.pem").read_bytes())
    port = str(servers[0].port)
    return [
        "map_library libperditiondb_posix_regex.so.0", f"map_library_opt {path}",
        r"query_key '\i'" if not own_keys else "# keys as below",
        f"ssl_cert_file {certificates}/cert.pem", f"ssl_key_file {certificates}/key.pem",
        *(o.replace("{port}", port).replace("{ca}", str(ca)) for o in options),
    ]  # fmt: skip


class _Talk:
    """A client that plays one dialogue; `lines` is what came of it."""

    def __init__(
        self, script: list[Line], address: str, port: int, server_port: int, quiet: Quiet | None
    ) -> None:
        self.script, self.address, self._port = script, address, port
        self._server_port = server_port
        self._quiet = quiet
        self.lines: list[Line] = []
        self._buffer = b""
        self._over = False  # nothing more can come

    def count(self, kind: str) -> int:
        """How many lines of a kind are to come."""
        return len([line for line in self.script if line.kind == kind])

    def run(self, secure: bool) -> None:
        """Play it to its end, and the end of the connection."""
        self._sock = socket.create_connection(
            ("127.0.0.1", self._port), PATIENCE, source_address=(self.address, 0)
        )
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                self._handshake()
            self._listen(self._awaited(0))
            for at, line in enumerate(self.script):
                if line.kind == "C":
                    self.lines.append(line)
                    self._say(line.text)
                    self._listen(self._awaited(at + 1))
            self._hang_up()
        finally:
            self._sock.close()

    def _awaited(self, at: int) -> int:
        """How many lines follow until the client speaks."""
        count = 0
        for line in self.script[at:]:
            if line.kind != "S" or line.text.endswith("\\c"):  # without an end, until the end
                break
            count += 1
        return count

    def _say(self, text: str) -> None:
        if self._over:
            return
        if text == "(tls)":
            self._handshake()
            return
        try:
            self._sock.sendall(to_bytes(text.replace("{port}", str(self._server_port))))
        except OSError:
            self._hear_end("(closed)")

    def _handshake(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # what certificates are worth is tested elsewhere
        try:
            self._sock = context.wrap_socket(self._sock)
        except OSError:
            self._hear_end("(no TLS)")

    def _listen(self, count: int) -> None:
        """Hear so many lines; while recording, all there are."""
        heard = 0
        while not self._over and (self._quiet is not None or heard < count):
            seconds = PATIENCE
            if self._quiet is not None:
                seconds = self._quiet.more if heard else self._quiet.first
            self._hear(seconds)
            heard += 1
            if self._quiet is not None and self.lines and self.lines[-1].text == "(silence)":
                self.lines.pop()
                return

    def _hear(self, seconds: float) -> None:
        self._sock.settimeout(seconds)
        while (end := self._buffer.find(b"\n") + 1) == 0:
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                if self._quiet is None:
                    self._hear_end("(silence)")
                else:
                    self.lines.append(Line("S", "(silence)"))
                return
            except OSError:
                data = b""
            if not data:
                self._hear_end("(closed)")
                return
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        self.lines.append(Line("S", self._shown(line)))

    def _hear_end(self, how: str) -> None:
        self._over = True
        if self._buffer:
            self.lines.append(Line("S", self._shown(self._buffer)))
        self.lines.append(Line("S", how))

    def _shown(self, line: bytes) -> str:
        text = re.sub(r"(ready on \S+ )[0-9a-f]{8}", r"\1HEX", to_text(line))
        text = text.replace(f"127.0.0.1:{self._server_port}", "SERVER")
        return text.replace(f" {os.uname().nodename} HEX", " NODENAME HEX")

    def _hang_up(self) -> None:
        """Say that nothing more comes from the client, and hear what is left."""
        if self._over:
            return
        with socket.socket(fileno=os.dup(self._sock.fileno())) as bare, suppress(OSError):
            bare.shutdown(socket.SHUT_WR)
        while not self._over:
            self._hear(PATIENCE)
        self.lines.pop()  # it is closed now, as it was to be


def _wait_for_logs(log: Path, wanted: dict[str, int], quiet: Quiet | None) -> None:
    """Let the log say all that is to come; what it does not say shows later."""
    end = time.monotonic() + (2.0 if quiet else 5.0)
    while time.monotonic() < end:
        logged = _logged(log)
        if quiet is None and all(len(logged.get(a, [])) >= count for a, count in wanted.items()):
            return
        time.sleep(0.05)


def _logged(log: Path) -> dict[str, list[str]]:
    """The lines of each client's address; those without one belong to the next of the process."""
    records = []
    for line in log.read_text(errors="backslashreplace").splitlines():
        if (match := _RECORD.match(line)) and _LOGGED.match(match[2]):
            records.append((match[1], match[2]))
    owners: list[str] = [""] * len(records)
    for places in (range(len(records) - 1, -1, -1), range(len(records))):
        latest: dict[str, str] = {}
        for place in places:
            pid, text = records[place]
            if found := re.search(r"(127\.\d+\.\d+\.1):\d+->", text):
                latest[pid] = owners[place] = found[1]
            owners[place] = owners[place] or latest.get(pid, "")
    logged: dict[str, list[str]] = {}
    for owner, (_, text) in zip(owners, records, strict=True):
        logged.setdefault(owner, []).append(text)
    return logged


def _masked(text: str, ports: dict[int, str]) -> str:
    """A line of a log without what differs each time."""
    text = re.sub(r"127\.\d+\.\d+\.1:\d+->", "CLIENT->", text)
    # 2.2 writes what freed memory holds behind a second login that is disabled.
    text = re.sub(r'server="\(null\):(?!\d+"|\(null\)").*', 'server="(null):GARBAGE', text)
    for port, name in ports.items():
        text = re.sub(rf"\b127\.0\.0\.1:{port}\b", name, text)
        text = re.sub(rf":{port}\b", f":{name}", text)
    return to_text(text.encode() + b"\r\n").replace("\\\\x", "\\x")
