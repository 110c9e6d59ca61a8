"""Serve one client on descriptors 0 and 1, for a super-server such as inetd or a systemd socket.

Where they are no socket but pipes, a socket pair stands between, fed by two threads.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from functools import partial

from perdition.config import Config
from perdition.metrics import Meter
from perdition.server.helpers import Helpers
from perdition.server.limits import make_penalties
from perdition.server.privileges import be_careful, become, close_memory, find_identity
from perdition.server.setup import announce, make_inherited, make_log, make_service
from perdition.server.sweep import Sweep
from perdition.session.login import Session, address_of
from perdition.session.loop import Loop
from perdition.session.tracing import Traces
from perdition.session.trail import Address
from perdition.tls import Passphrase

FAILED = 255  # the client left without a login, as 2.2 says it


def serve(config: Config) -> int:
    """Serve the client and return the exit status; StartError when it can't be."""
    be_careful(core_dumps=config.core_dumps)
    log = make_log(config)
    helpers = Helpers(config.basename, 1, config.pam_folder) if config.authenticate_in else None
    inherited = make_inherited(config, Passphrase(config), helpers.ask if helpers else None)
    announce(config, log)
    if helpers is not None:
        helpers.fill_up(partial(close_memory, core_dumps=config.core_dumps))
    become(find_identity(config.username, config.group), core_dumps=config.core_dumps)
    sock, threads = _client()
    loop = Loop(failed=lambda error: log.fault("session", error), after=log.batch_over)
    sweep = Sweep(loop, log.flush)
    service = make_service(
        config, inherited, log, loop=loop, poller=loop.poller, sweep=sweep, meter=Meter(),
        traces=Traces(), penalties=make_penalties(config, [0] * 4), inetd_pid=os.getppid(),
    )  # fmt: skip
    status = FAILED

    def ended(session: Session) -> None:
        nonlocal status
        status = 0 if session.complete else FAILED
        loop.call_soon(loop.stop)

    sweep.start()
    peer, reached = _addresses(sock)
    loop.call_soon(Session, service, sock, peer, reached, ended)
    loop.run_forever()
    log.flush()
    for thread in threads:
        thread.join(5)
    return status


def _client() -> tuple[socket.socket, list[threading.Thread]]:
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        sock = socket.socket(fileno=os.dup(0))
        sock.setblocking(False)
        return sock, []
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    threads = [
        threading.Thread(target=_pump_in, args=(theirs,), daemon=True),
        threading.Thread(target=_pump_out, args=(theirs,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    return ours, threads[1:]


def _addresses(sock: socket.socket) -> tuple[Address | None, Address | None]:
    """Both ends of the client's connection, where it is one over IP."""
    try:
        return address_of(sock.getpeername()), address_of(sock.getsockname())
    except OSError:
        return None, None


def _pump_in(sock: socket.socket) -> None:
    try:
        while data := os.read(0, 65536):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the session has ended


def _pump_out(sock: socket.socket) -> None:
    try:
        while data := sock.recv(65536):
            while data:
                data = data[os.write(1, data) :]
    except OSError:
        pass  # nobody reads any more
