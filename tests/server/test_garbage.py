"""Sessions end without a cycle of references: the collector has nothing to do.

A daemon whose worker collects nothing serves every kind of session; then the cycles are counted.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

from tests.servers.daemon import Daemon, within
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import free_port

USERS = {"ann": "canary-ann"}
# In front of the command: its worker collects nothing, and says at its end what there was.
COUNTING = """
import gc
from collections import Counter
from perdition.server.worker import Worker
run, listen = Worker.run, Worker._listen
def listen_without(self):
    listen(self)
    gc.collect()
    self.loop.call_soon(gc.disable)
def run_and_count(self):
    status = run(self)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    kinds = Counter(type(each).__qualname__ for each in gc.garbage)
    self.log.info(f"garbage: {sorted(kinds)}")
    self.log.flush()
    return status
Worker.run, Worker._listen = run_and_count, listen_without
"""
OURS = {
    "Session", "Quick", "Side", "Relay", "Flow", "PlainFlow", "Front", "Back", "Trail", "TlsSocket",
}  # fmt: skip


def _play(proxy: Daemon, context: ssl.SSLContext) -> None:
    """Sessions of every kind, each to its end."""
    for words in (
        ["a LOGIN ann canary-ann", "b NOOP", "c LOGOUT"],
        ["a LOGIN ann wrong", "b LOGOUT"],
        ["a LOGIN down canary-ann", "b LOGOUT"],
        ["a LOGIN ann canary-ann"],
        ["a LOGOUT"],
        ["a CAPABILITY"],
        ["a WRONG"] * 12,
        [],
    ):
        with Lines.to(proxy.port) as lines:
            lines.hear()
            for word in words:
                if not lines.ask(word)[-1]:
                    break
    for after in ("b LOGIN ann canary-ann", "b LOGIN ann wrong"):
        with Lines.to(proxy.port) as lines:
            lines.hear()
            lines.ask("a STARTTLS")
            with Lines(context.wrap_socket(lines.sock)) as secure:
                secure.ask(after)
                secure.ask("c LOGOUT")
                secure.rest()
    with Lines.to(proxy.port) as lines:
        lines.hear()
        lines.ask("a STARTTLS")
        lines.say("no handshake")
        with suppress(ConnectionResetError):
            lines.rest()


def test_no_session_leaves_a_cycle(dovecot: Dovecot, certificates: Path, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    popmap = tmp_path / "popmap"
    popmap.write_text(f"ann:127.0.0.1:{dovecot.port}\ndown:127.0.0.1:{free_port()}\n")
    proxy = Daemon(
        tmp_path / "p", "workers 1", "map_library popmap", f"map_library_opt {popmap}",
        "ssl_mode tls_listen", f"ssl_cert_file {certificates / 'cert.pem'}",
        f"ssl_key_file {certificates / 'key.pem'}", "failure_delay 0",
    )  # fmt: skip
    proxy.wrapper = within(COUNTING)
    with proxy:
        for _ in range(3):
            _play(proxy, context)
        proxy.wait_for_log("^Closing|Fatal error", 33)
    (said,) = proxy.wait_for_log("^garbage:")
    found = set(said.partition("[")[2].rstrip("]").replace("'", "").split(", "))
    assert not found & OURS, said
