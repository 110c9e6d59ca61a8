"""The worker's side of local authentication: ask a helper, wait no longer than allowed.

Invariant: the loop never blocks; a helper that is busy, slow or gone is a trouble that passes.
"""

from __future__ import annotations

import asyncio
import socket

from perdition.auth.helper import NO, YES, request
from perdition.errors import PerditionError


class AuthError(PerditionError):
    """Nobody can say now whether the password is right."""


class Asking:
    """Local authentication as a session sees it; `helpers` is where they read."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, helpers: socket.socket, timeout: float, most: int
    ) -> None:
        self._loop = loop
        self._helpers = helpers
        self._timeout = timeout  # seconds
        self._most = most  # checks of this worker under way at once
        self._under_way = 0

    async def check(self, user: bytes, password: bytes, host: str) -> bool:
        """Return whether the password is right; AuthError when nobody can say."""
        if self._under_way >= self._most:
            raise AuthError(f"{self._most} checks are under way already")
        try:
            asked = request(user, password, host)
        except ValueError:
            return False
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise AuthError(f"nobody can be asked: {error.strerror}") from None
        self._under_way += 1
        try:
            ours.setblocking(False)
            try:
                socket.send_fds(self._helpers, [asked], [theirs.fileno()], socket.MSG_DONTWAIT)
            except OSError as error:
                raise AuthError(f"no helper takes the question: {error.strerror}") from None
            finally:
                theirs.close()
            answer = await asyncio.wait_for(self._loop.sock_recv(ours, 1), self._timeout)
        except TimeoutError:
            raise AuthError(f"no answer within {self._timeout:g} s") from None
        finally:
            self._under_way -= 1
            ours.close()
        if answer not in (YES, NO):
            raise AuthError("PAM is in trouble; its modules say more in the log of the system")
        return answer == YES
