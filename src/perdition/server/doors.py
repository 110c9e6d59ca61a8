"""Where the master can be reached: the sockets for control and for metrics.

The control socket is a file that only its owner may open (0600). One that a daemon has left behind
is replaced, one that somebody serves is not. Invariant: at the end only our own file is removed.
"""

from __future__ import annotations

import os
import socket
import stat

from perdition.config import Config
from perdition.errors import StartError
from perdition.places import CONTROL_SUFFIX, RUN_FOLDER
from perdition.route import parse_server

_CONTROL_MODE, _METRICS_MODE = 0o600, 0o666
_QUEUE = 64


class Door:
    """A listening socket; `mark` is the file's identity, None for a port."""

    def __init__(self, sock: socket.socket, path: str = "") -> None:
        self.sock = sock
        self.path = path
        self._mark = _mark(path) if path else None

    def remove(self) -> None:
        """Take the file away, if it is still ours."""
        if self._mark is not None and _mark(self.path) == self._mark:
            os.unlink(self.path)


def control_door(config: Config) -> Door | None:
    """Open what ``control_socket`` names; StartError when it can't be.

    The default's folder is made; None: there shall be no socket.
    """
    setting, ident = config.control_socket, config.basename
    if setting == "none":
        return None
    if setting:
        return _file(setting, _CONTROL_MODE)
    try:
        _make_folder(RUN_FOLDER)
        _sweep_out(RUN_FOLDER, ident)
    except OSError as error:
        raise StartError(f"control_socket: {RUN_FOLDER}: {error.strerror}") from None
    return _file(f"{RUN_FOLDER}/{ident}.{os.getpid()}{CONTROL_SUFFIX}", _CONTROL_MODE)


def metrics_door(config: Config) -> Door | None:
    """Open what ``metrics_listen`` names; StartError when it can't be, None: nothing."""
    setting = config.metrics_listen
    if not setting:
        return None
    if setting.startswith("/"):
        return _file(setting, _METRICS_MODE, "metrics_listen")
    host, port = parse_server(setting)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        sock.listen(_QUEUE)
    except OSError as error:
        sock.close()
        raise StartError(f"metrics_listen: {setting}: {error.strerror}") from None
    return Door(sock)


def _file(path: str, mode: int, option: str = "control_socket") -> Door:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~mode)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(_QUEUE)
    except OSError as error:
        sock.close()
        raise StartError(f"{option}: {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return Door(sock, path)


def _make_folder(path: str) -> None:
    """Make a folder that everybody may look into, whatever the mask; nothing if it is there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, 0o755)


def _sweep_out(folder: str, ident: str) -> None:
    """Remove what daemons of our name have left behind."""
    for name in os.listdir(folder):
        if name.startswith(f"{ident}.") and name.endswith(CONTROL_SUFFIX):
            pid = name[len(ident) + 1 : -len(CONTROL_SUFFIX)]
            path = os.path.join(folder, name)
            if pid.isdigit() and _is_left_behind(path):
                os.unlink(path)


def _is_left_behind(path: str) -> bool:
    """Whether it is a socket that nobody serves."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass  # there is none, its queue is full, or it is not ours to ask
    return False


def _mark(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
