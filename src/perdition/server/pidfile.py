"""The pid file: who runs here, and that nobody else does.

Source: section 2.4 of the description of 2.2.
"""

from __future__ import annotations

import os

from perdition.errors import StartError
from perdition.log import Log
from perdition.server.privileges import Identity


class PidFile:
    """The daemon's pid file; `remove` takes away only our own."""

    def __init__(self, path: str, owner: Identity) -> None:
        self.path = path
        self._owner = owner

    def write(self, log: Log) -> None:
        """Create the file with our number; StartError when another daemon lives.

        One that has it already, because we are the successor of a predecessor, stays.
        """
        if self._is_ours():
            return
        folder = os.path.dirname(self.path)
        try:
            if not os.path.isdir(folder):
                os.mkdir(folder)
                os.chmod(folder, 0o750)
                self._own(folder)
            self._clear_stale(log)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(f"Could not write pid file [{self.path}]: {error.strerror}") from None
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o644)  # whatever the mask: it tells no secret
            file.write(str(os.getpid()))
        self._own(self.path)

    def _own(self, path: str) -> None:
        if os.geteuid() == 0:
            try:
                os.chown(path, self._owner.uid, self._owner.gid)
            except PermissionError:
                pass  # a sandbox without CAP_CHOWN: 2.2's way, but nobody needs it

    def _clear_stale(self, log: Log) -> None:
        try:
            with open(self.path) as file:
                text = file.read(32).strip()
        except FileNotFoundError:
            return
        pid = int(text) if text.isascii() and text.isdigit() else 0
        if pid and pid != os.getpid() and _lives(pid):
            raise StartError(
                f"Fatal error: Pid file [{self.path}] exists for process [{pid}] "
                "which appears to be running, exiting"
            )
        os.unlink(self.path)
        log.info(f"Removed stale pid-file [{self.path}]")

    def remove(self) -> None:
        """Take the file away, if it is still ours."""
        try:
            if self._is_ours():
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or its folder is: nothing that could be done

    def _is_ours(self) -> bool:
        try:
            with open(self.path) as file:
                return file.read(32).strip() == str(os.getpid())
        except OSError:
            return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
