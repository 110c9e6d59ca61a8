"""`make run`: the how-to with nothing to configure, in front of a real IMAP server.

It makes a certificate, starts pymap with its demonstration mailbox, starts ``perdition.imap4s`` in
front of it with the how-to's configuration, logs in through TLS, shows that dialogue, and then
shows the daemon's log until Ctrl-C. With ONCE=1 in the environment it ends after the dialogue.
Exit status: 0, or 1 when the login failed or a server did not start.
"""

from __future__ import annotations

import imaplib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trustme

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
USER, PASSWORD = "demouser", "demopass"
WANTED_PORT = 10993
PATIENCE = 30.0  # seconds for each server to come up
BIN = Path(sys.executable).parent
CONFIGURATION = """\
outgoing_server 127.0.0.1
outgoing_port {server_port}
lower_case all
connection_limit 100
no_lookup
timeout 30
#debug
imap_capability "IMAP4rev1 LOGIN-REFERRALS ID ENABLE IDLE LITERAL+"
ssl_mode ssl_listen
ssl_cert_file {folder}/cert.pem
ssl_key_file {folder}/key.pem
ssl_dh_params_file {folder}/dhparm.pem

# The how-to ends here; what follows lets it run beside whatever else this machine does.
bind_address 127.0.0.1
listen_port {port}
no_daemon
log_facility -
pid_file {folder}/pid
"""


class Client(imaplib.IMAP4_SSL):
    """An IMAP client that shows its dialogue."""

    def send(self, data: Buffer) -> None:
        """Send and show."""
        show("C", bytes(data))
        super().send(data)

    def readline(self) -> bytes:
        """Receive and show."""
        line = super().readline()
        show("S", line)
        return line

    def read(self, size: int) -> bytes:
        """Receive a literal and show it."""
        data = super().read(size)
        show("S", data)
        return data


def show(who: str, data: bytes) -> None:
    """Show whole lines of the dialogue."""
    for line in data.decode("utf-8", "replace").splitlines():
        print(f"    {who}: {line}")


def free_port(wanted: int = 0) -> int:
    """Return `wanted` if nothing listens there, else any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(folder: Path, server_port: int, port: int) -> Path:
    """Write certificate, key, parameters and configuration; return the configuration's path."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=bool(number))
    shutil.copy(Path(__file__).with_name("ffdhe2048.pem"), folder / "dhparm.pem")
    path = folder / "perdition.imap4s.conf"
    path.write_text(CONFIGURATION.format(server_port=server_port, folder=folder, port=port))
    return path


def start(stack: ExitStack, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server that ends with `stack`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    stack.callback(stop, process)
    return process


def connect(kind: Callable[[], T], process: subprocess.Popen[bytes], log: Path) -> T:
    """Return what `kind` makes once the server listens."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            return kind()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise failure(f"{process.args!r} did not start:\n{log.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def failure(why: str) -> SystemExit:
    """Return the end with status 1, `why` on stderr."""
    return SystemExit(f"make run: {why}")


def log_in(client: Client) -> None:
    """Log in, look at the mailbox, log out."""
    with client:
        client.login(USER, PASSWORD)
        client.select("INBOX", readonly=True)
        client.fetch("1", "(BODY[HEADER.FIELDS (FROM SUBJECT)])")


def follow(log: Path, until: str = "") -> None:
    """Show what the daemon logs, to a line with `until` in it, or to the terminal's Ctrl-C."""
    end = time.monotonic() + PATIENCE
    with log.open() as lines:
        while not until or time.monotonic() < end:
            line = lines.readline()
            if line:
                print(f"    {line}", end="", flush=True)
                if until and until in line:
                    return
            else:
                time.sleep(0.05)


def run(stack: ExitStack, folder: Path) -> None:
    """Run the demonstration in `folder`."""
    server_port, port = free_port(), free_port(WANTED_PORT)
    path = prepare(folder, server_port, port)
    print("An IMAP server (pymap) with a demonstration mailbox, and perdition.imap4s before it.")
    log = folder / "pymap.log"
    command = [str(BIN / "pymap"), "--host", "127.0.0.1", "--port", str(server_port), "--no-tls"]
    server = start(stack, [*command, "dict", "--demo-data"], log)
    connect(lambda: socket.create_connection(("127.0.0.1", server_port), 1), server, log).close()
    log = folder / "perdition.log"
    proxy = start(stack, [str(BIN / "perdition.imap4s"), "--config_file", str(path)], log)
    print(f"\nA login through TLS on port {port}:")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    try:
        log_in(connect(
            lambda: Client("127.0.0.1", port, ssl_context=context, timeout=PATIENCE), proxy, log
        ))  # fmt: skip
    except (imaplib.IMAP4.error, OSError) as error:
        raise failure(f"the login failed: {error}\n{log.read_text()}") from None
    print("\nThe log:")
    if os.environ.get("ONCE"):
        follow(log, "Closing session")
        return
    print(f"""\
    (Ctrl-C ends. To try it by hand:
     openssl s_client -quiet -crlf -connect 127.0.0.1:{port} -CAfile {folder}/ca.pem
     a login {USER} {PASSWORD}
     b select INBOX
     c logout)""")
    follow(log)


def main() -> None:
    """Run the demonstration in a temporary folder, which ends with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdition-")))
        try:
            run(stack, folder)
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
