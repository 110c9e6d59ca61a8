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
from functools import partial
from itertools import islice

_SOME = select.EPOLLIN
_LAST = _SOME | select.EPOLLRDHUP  # with what is there the peer ends
_UNCONNECTED = select.EPOLLHUP  # alone, of a socket
_IN = _LAST  # what readers are told of
_OUT = select.EPOLLOUT
_BATCH = 64  # events fetched at once; what the first has to say may wait for the last
_MORE = 256  # descriptors for which there is room at once
_FEW = 4  # events of a batch whose callbacks may send as they go
_MOMENT = 0.002  # seconds that who is patient waits at most

Callback = Callable[[], None]


def _nobody() -> None:
    """What is called for a descriptor that is not watched, if a callback has just closed it."""


class _Port:
    """What is called for a descriptor that somebody waits to write to, or nobody listens to."""

    __slots__ = ("fd", "poller", "reader", "writer")

    def __init__(self, poller: Poller, fd: int, reader: Callback) -> None:
        self.poller = poller
        self.fd = fd
        self.reader = None if reader is _nobody else reader
        self.writer: Callback | None = None

    @property
    def func(self) -> Callback | None:
        """Whom it calls; named as in a `partial`."""
        return self.reader or self.writer

    def __call__(self) -> None:
        """Tell both; whom it does not concern finds that he would have to wait."""
        if self.reader is not None:
            self.reader()
        if self.writer is not None:
            self.writer()
        elif self.reader is None:
            self.poller._unheard(self)


class Poller:
    """Callbacks by descriptor; `after` hears behind each batch of them whether it was a large one,
    and ahead of each wait that none is under way; `failed`, which of them has failed, and how.

    While a batch is a large one `crowded` is true, and what is small is sent behind it, by `later`:
    who sleeps on the same machine is woken once by all that is there for him, and not by each
    packet. A login is a quarter cheaper so. What has come meanwhile belongs to the batch: one more
    look brings another twentieth. Behind what is sent its sockets are closed, then clients are
    accepted, for who has just been hung up on may come again: that is one as well.

    Who is patient is called when there is nothing else to do, or after a moment: what begins waits
    for what goes on, and then much of one kind comes at once.
    """

    def __init__(
        self, *, failed: Callable[[Exception, Callback], None], after: Callable[[bool], None]
    ) -> None:
        self._epoll = select.epoll()
        # By descriptor, which are small and dense: a list is a tenth of a dictionary.
        self._calls: list[Callback] = []
        self._ports: dict[int, _Port] = {}  # those among them
        self._failed = failed
        self._after = after
        self._left = False
        self._later: list[Callback] = []
        # Calls something behind the batch under way, or ahead of the next.
        self.later: Callable[[Callback], None] = self._later.append
        self.crowded = False
        # Calls something behind all that is for `later`; for callbacks of a large batch.
        self._closing: list[Callback] = []
        self.then_close: Callable[[Callback], None] = self._closing.append
        self._accepting: dict[int, Callback] = {}
        self._patient: dict[int, Callback] = {}  # what is to be called when there is time, by fd
        self._patience = 0.0  # until when that may be; monotonic

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
        else:
            self._after(False)  # for what has happened outside
        while not self._left:
            is_busy = bool(self._patient)
            events = self._epoll.poll(0 if is_busy else seconds, _BATCH)
            self._dispatch(events)
            if not (events or is_busy):
                return
            if end is not None:
                seconds = end - time.monotonic()
                if seconds <= 0:
                    return

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be read, or has failed; replaces an earlier one.

        If the peer ends with what is there it is called twice in a row, unless it is replaced.
        """
        if self._ports and (port := self._ports.get(fd)) is not None:
            port.reader = callback
            self._settle(port)
            return
        calls = self._calls
        if fd >= len(calls):
            calls += [_nobody] * (fd + _MORE - len(calls))
        if calls[fd] is _nobody:
            self._epoll.register(fd, _IN)
        calls[fd] = callback

    def add_patient_reader(self, fd: int, callback: Callback) -> None:
        """The same, but it is called when no other socket has anything, or after a moment."""
        self.add_reader(fd, partial(self._has_time, fd, callback))

    def then_accept(self, fd: int, callback: Callback) -> None:
        """Call it behind all that is closed in a large batch, once for each descriptor."""
        self._accepting[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Leave what comes in the kernel's buffer."""
        self._patient.pop(fd, None)
        if self._known(fd) is not _nobody:
            port = self._port(fd)
            port.reader = None
            self._settle(port)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be written, or has failed; replaces an earlier one."""
        if self._known(fd) is _nobody:
            self.add_reader(fd, _nobody)
        port = self._port(fd)
        port.writer = callback
        self._settle(port)

    def remove_writer(self, fd: int) -> None:
        """Be told no more of room for writing."""
        if self._ports and (port := self._ports.get(fd)) is not None:
            port.writer = None
            self._settle(port)

    def forget(self, fd: int) -> None:
        """Drop the callbacks of a descriptor that is closed next; the kernel forgets it then."""
        if fd < 0:
            return
        if self._patient:
            self._patient.pop(fd, None)
        try:
            self._calls[fd] = _nobody
        except IndexError:
            return
        if self._ports and (port := self._ports.pop(fd, None)) is not None:
            port.reader = port.writer = None

    def _has_time(self, fd: int, callback: Callback) -> None:
        """A patient one could read; the kernel says it again with each batch."""
        if not self._patient:
            self._patience = time.monotonic() + _MOMENT
        self._patient[fd] = callback

    def _add_rest(self, events: int) -> None:
        """What comes behind all that is for `later`; who is patient does if nothing else came."""
        self._later += self._closing
        self._later += self._accepting.values()
        self._closing.clear()
        self._accepting.clear()
        patient = self._patient
        if patient and (len(patient) >= events or time.monotonic() >= self._patience):
            for fd in list(islice(patient, _BATCH)):
                self.later(patient.pop(fd))

    def _known(self, fd: int) -> Callback:
        """What is called for `fd` now."""
        return self._calls[fd] if 0 <= fd < len(self._calls) else _nobody

    def _port(self, fd: int) -> _Port:
        """Make one of what is called for `fd`, if it is none."""
        port = self._ports.get(fd)
        if port is None:
            port = self._ports[fd] = _Port(self, fd, self._calls[fd])
            self._calls[fd] = port
        return port

    def _settle(self, port: _Port) -> None:
        """Have the kernel tell what `port` wants to hear; who only reads needs none."""
        mask = _OUT if port.writer is not None else 0
        if port.reader is not None:
            mask |= _IN
            if port.writer is None:
                self._calls[port.fd] = port.reader
                del self._ports[port.fd]
        self._epoll.modify(port.fd, mask)

    def _unheard(self, port: _Port) -> None:
        """Nobody listens though it may have failed: whoever adds a callback will hear of it."""
        if self._ports.get(port.fd) is port:
            del self._ports[port.fd]
            self._calls[port.fd] = _nobody
            with suppress(OSError):
                self._epoll.unregister(port.fd)

    def _dispatch(self, ready: list[tuple[int, int]]) -> None:
        calls, later = self._calls, self._later
        coming, waiting = iter(ready), iter(later)  # which a fault leaves where they are
        call = _nobody
        self.crowded = crowded = look_again = len(ready) > _FEW
        while True:
            try:
                for fd, what in coming:
                    call = calls[fd]
                    if what == _SOME:
                        call()
                    elif what == _LAST:
                        call()
                        if calls[fd] is call:
                            call()
                    elif what != _UNCONNECTED or fd in self._ports:
                        call()
                if look_again:
                    look_again = False
                    ready = self._epoll.poll(0, _BATCH)
                    coming = iter(ready)
                    continue
                self.crowded = False
                if self._closing or self._accepting or self._patient:
                    self._add_rest(len(ready))
                for call in waiting:  # and it may add others
                    call()
                break
            except Exception as error:  # one of five doors: a fault costs one callback
                self._failed(error, call)
        later.clear()
        self._after(crowded)
