"""Readiness of the sessions' sockets: one epoll of our own, in which the worker's loop waits.

Why not the loop's `add_reader`: a socket is registered once in its life here, and closing it is the
end of that; and between the kernel and a callback there is one line of Python. `wait` serves the
sockets until the loop around it (`perdition.session.loop`) has something to do.
Invariant: a socket without a callback is never reported again and again.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_BATCH = 64  # events fetched at once; what the first has to say may wait for the last
_MORE = 256  # descriptors for which there is room at once
_FEW = 4  # events of a batch whose callbacks may send as they go

Callback = Callable[[], None]


class Poller:
    """Callbacks by descriptor; `after` is called once behind each batch of them.

    While a batch is a large one `crowded` is true, and what is small is sent behind it, by `later`:
    who sleeps on the same machine is woken once by all that is there for him, and not by each
    packet. A login is a quarter cheaper so.
    """

    def __init__(self, *, failed: Callable[[Exception], None], after: Callable[[], None]) -> None:
        self._epoll = select.epoll()
        # By descriptor, which are small and dense: a list is a tenth of a dictionary.
        self._readers: list[Callback | None] = []
        self._writers: dict[int, Callback] = {}
        self._failed = failed
        self._after = after
        self._left = False
        self._later: list[Callback] = []
        # Calls something behind the batch under way, or ahead of the next.
        self.later: Callable[[Callback], None] = self._later.append
        self.crowded = False

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()

    def leave(self) -> None:
        """Let `wait` return behind the batch under way."""
        self._left = True

    def wait(self, seconds: float | None) -> None:
        """Serve the sockets until `leave`, or for so long (None: for ever)."""
        self._left = False
        end = None if seconds is None else time.monotonic() + seconds
        if self._later:
            self._dispatch([])
        while not self._left:
            events = self._epoll.poll(seconds, _BATCH)
            self._dispatch(events)
            if not events:
                return
            if end is not None:
                seconds = end - time.monotonic()
                if seconds <= 0:
                    return

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be read, or has failed; replaces an earlier one."""
        readers = self._readers
        try:
            known = readers[fd]
        except IndexError:
            readers += [None] * (fd + _MORE - len(readers))
            known = None
        readers[fd] = callback
        if known is None:
            self._watch(fd, _IN | _OUT if fd in self._writers else _IN)

    def remove_reader(self, fd: int) -> None:
        """Leave what comes in the kernel's buffer."""
        if self._reader(fd) is not None:
            self._readers[fd] = None
            self._epoll.modify(fd, _OUT if fd in self._writers else 0)

    def _reader(self, fd: int) -> Callback | None:
        return self._readers[fd] if 0 <= fd < len(self._readers) else None

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be written, or has failed; replaces an earlier one."""
        known = fd in self._writers
        self._writers[fd] = callback
        if not known:
            self._watch(fd, _OUT if self._reader(fd) is None else _IN | _OUT)

    def remove_writer(self, fd: int) -> None:
        """Be told no more of room for writing."""
        if self._writers and self._writers.pop(fd, None) is not None:
            self._epoll.modify(fd, 0 if self._reader(fd) is None else _IN)

    def forget(self, fd: int) -> None:
        """Drop the callbacks of a descriptor that is closed next; the kernel forgets it then."""
        if 0 <= fd < len(self._readers):
            self._readers[fd] = None
        if self._writers:
            self._writers.pop(fd, None)

    def _watch(self, fd: int, mask: int) -> None:
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:  # watched already, for the other thing or for none
            self._epoll.modify(fd, mask)

    def _dispatch(self, ready: list[tuple[int, int]]) -> None:
        readers, later = self._readers, self._later
        coming, waiting = iter(ready), iter(later)  # which a fault leaves where they are
        self.crowded = len(ready) > _FEW
        while True:
            try:
                for fd, events in coming:
                    if events != _IN:
                        self._ready(fd, events)
                    elif (reader := readers[fd]) is not None:
                        reader()
                self.crowded = False
                for call in waiting:  # and it may add others
                    call()
                break
            except Exception as error:  # one of four doors: a fault costs one callback
                self._failed(error)
        later.clear()
        self._after()

    def _ready(self, fd: int, events: int) -> None:
        """It can be written, or has failed, which is told to both."""
        reader = self._reader(fd) if events & ~_OUT else None
        if reader is not None:
            reader()
        writer = self._writers.get(fd)
        if writer is not None:
            writer()
        elif self._reader(fd) is None:
            # Failed, and nobody listens: whoever adds a callback will hear of it.
            with suppress(OSError):  # closed meanwhile, by an earlier callback of the batch
                self._epoll.unregister(fd)
