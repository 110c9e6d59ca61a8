"""Readiness of the sessions' sockets: one epoll of our own, hung into the worker's loop.

Why not the loop's `add_reader`: libuv asks the kernel five to ten times for each socket that it
watches, a sixth of what a login costs; here a socket is registered once in its life, and closing
it is the end of that. The loop watches the epoll descriptor, so tasks and drivers go on as ever.
Invariant: a socket without a callback is never reported again and again.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_BATCH = 256  # events fetched at once

Callback = Callable[[], None]


class Poller:
    """Callbacks by descriptor; `after` is called once behind each batch of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        failed: Callable[[Exception], None],
        after: Callable[[], None],
    ) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}  # what the kernel was told
        self._failed = failed
        self._after = after
        self._loop = loop
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be read, or has failed; replaces an earlier one."""
        self._readers[fd] = callback
        mask = self._masks.get(fd)
        if mask is None:
            self._masks[fd] = _IN
            self._epoll.register(fd, _IN)
        elif not mask & _IN:
            self._change(fd, mask | _IN)

    def remove_reader(self, fd: int) -> None:
        """Leave what comes in the kernel's buffer."""
        if self._readers.pop(fd, None) is not None:
            self._change(fd, self._masks[fd] & ~_IN)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be written, or has failed; replaces an earlier one."""
        self._writers[fd] = callback
        mask = self._masks.get(fd)
        if mask is None:
            self._masks[fd] = _OUT
            self._epoll.register(fd, _OUT)
        elif not mask & _OUT:
            self._change(fd, mask | _OUT)

    def remove_writer(self, fd: int) -> None:
        """Be told no more of room for writing."""
        if self._writers.pop(fd, None) is not None:
            self._change(fd, self._masks[fd] & ~_OUT)

    def forget(self, fd: int) -> None:
        """Drop the callbacks of a descriptor that is closed next; the kernel forgets it then."""
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)
        self._masks.pop(fd, None)

    def _change(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        self._epoll.modify(fd, mask)

    def _dispatch(self) -> None:
        readers, writers = self._readers, self._writers
        for fd, events in self._epoll.poll(0, _BATCH):
            try:
                reader = readers.get(fd) if events & ~_OUT else None
                if reader is not None:
                    reader()
                if events & ~_IN:
                    writer = writers.get(fd)
                    if writer is not None:
                        writer()
                    elif reader is None and fd in self._masks:
                        # Failed, and nobody listens: whoever adds a callback will hear of it.
                        self._epoll.unregister(fd)
                        del self._masks[fd]
            except Exception as error:  # one of four doors: a fault costs one callback
                self._failed(error)
        self._after()
