"""The bytes after the login: two flows between two sockets, and nothing else.

The relay knows no protocol, no log and no configuration. A chunk costs one read and one write and
no allocation that outlives it; only small ones of a large batch of events wait for its end. When a
sink is slow, its source is not read (back-pressure). Chunks double while the sink takes them whole,
up to the buffer, and are small again when it does not: so a fast transfer costs few steps, and a
slow client holds little. Large ones between two plain sockets never leave the kernel (`splice`).
A client's end is passed on as such (half-close), and the answers go on; a server's end is the
session's as soon as nothing is under way.
Invariant: what was read from one side is written to the other, once, in order, or the session ends.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from termios import FIONREAD
from typing import Protocol

from perdition.tls_socket import WANTS, TlsSocket

_WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
_RECORD = 16384  # bytes; a shorter read from TLS means that no more is there
_CHUNK = 32768  # bytes read at once from a peer of which nothing is known
_SMALL = 4096  # bytes that may wait for the end of a large batch
_LINGER = 30  # seconds without traffic that a half-closed session may last
_ENDED, _TOLD = 1, 2
_NOTHING = bytes(4)  # as FIONREAD says it: no byte has come; without an exception for that,
_COME = bytearray(4)  # and into what is there already it says so in half the time
IDLE = "Timeout piping data."  # why a relay has ended, as 2.2 says it
_QUIET = 2  # seconds without traffic before a TLS server hears that its client has ended


class Poller(Protocol):
    """Callbacks by descriptor."""

    crowded: bool  # what is small is to be sent by `later`

    @property
    def later(self) -> Callable[[Callable[[], None]], None]:
        """Calls something behind the batch of events under way."""

    @property
    def then_close(self) -> Callable[[Callable[[], None]], None]:
        """Calls something behind all that is for `later`, of a large batch."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        """Call it whenever `fd` can be read."""

    def remove_reader(self, fd: int, /) -> None:
        """Leave what comes in the kernel's buffer."""

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> None:
        """Call it whenever `fd` can be written."""

    def remove_writer(self, fd: int, /) -> None:
        """Be told no more."""

    def forget(self, fd: int, /) -> None:
        """Drop the callbacks of a descriptor that is closed next."""


class Pipe(Protocol):
    """Moves bytes between plain sockets; see `perdition.session.splice`."""

    def move(self, source: int, sink: int, most: int, /) -> tuple[int, bytes]:
        """Return how many bytes there were, and those that the sink did not take."""


class Clock(Protocol):
    """Coarse time of a worker: whole seconds; reading it costs nothing."""

    now: int


class Owner(Protocol):
    """Who holds a relay, and asks its `due`."""

    def relay_due_by(self, second: int, /) -> None:
        """Ask `Relay.due` no later than at `second`."""

    def relay_ended(self, relay: Relay, why: str, /) -> None:
        """The relay has ended; `why` is for the log, empty for an ordinary end."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all relays of a worker work with; `idle` is in seconds, 0 for no limit."""

    poller: Poller
    clock: Clock
    buffer: memoryview
    pipe: Pipe
    idle: int


class Flow:
    """One direction: reads `source`, writes `sink`.

    Outside a batch of events, `source` is not read while there is a backlog.
    """

    __slots__ = ("backlog", "count", "ended", "most", "relay", "sink", "source", "stuck")
    is_plain = False

    def __init__(self, relay: Relay, source: socket.SocketType, sink: socket.SocketType) -> None:
        self.relay = relay
        self.source = source
        self.sink = sink
        self.most = _CHUNK  # bytes of the next chunk
        self.backlog: bytes | memoryview = b""  # read and not yet given to the sink, or not taken
        self.count = 0  # bytes read after the login
        self.ended = 0  # _ENDED: the source sends no more; _TOLD: and the sink knows
        self.stuck = False  # TLS wants to write before it can read on

    def __call__(self) -> None:
        """Move what is there, through the worker's buffer."""
        relay = self.relay
        means = relay.means
        buffer = means.buffer
        try:
            got = self.source.recv_into(buffer, self.most)
            if got == _RECORD and isinstance(self.source, TlsSocket):
                got = self._gather(got)
        except _WANT_READ:
            return
        except ssl.SSLWantWriteError:
            self._wait_to_write()
            return
        except OSError:
            relay.close("")
            return
        relay.active = means.clock.now
        if not got:
            self._source_ended()
            return
        self.count += got
        data = buffer[:got]
        poller = means.poller
        if poller.crowded and (got <= _SMALL or self.backlog):
            if self.backlog:
                self.backlog = bytes(self.backlog) + data
            else:
                self.backlog = bytes(data)
                poller.later(self._send_backlog)
            return
        try:
            sent = self.sink.send(data)
        except WANTS:
            sent = 0
        except OSError:
            relay.close("")
            return
        if sent != got:
            self._hold(bytes(data[sent:]))
        elif got >= _CHUNK:
            self._want_more(got)

    def _send_backlog(self) -> None:
        """Send what waited for the end of a batch, unless the relay has ended meanwhile."""
        if not self.backlog:
            return
        if not self.offer():
            self._hold(bytes(self.backlog))
        elif self.ended:
            self._end_sink()

    def offer(self, flags: int = 0) -> bool:
        """Send what waits; whether the sink took it all, or is gone.

        That it is gone reading tells, behind what it has said last.
        """
        waited = self.backlog
        try:
            rest = waited[self.sink.send(waited, flags) :]
        except WANTS:
            return False
        except OSError:
            rest = b""
        self.backlog = rest
        return not rest

    def send_last(self) -> None:
        """Send what the sink takes of what waits, as the relay ends."""
        waited, self.backlog = self.backlog, b""
        try:
            self.sink.send(waited)
        except (OSError, ValueError):
            pass  # it does not read, or is gone

    def _pour(self) -> None:
        """Move what is there, unseen: large chunks between plain sockets, none waiting for them."""
        relay = self.relay
        source, sink = self.source.fileno(), self.sink.fileno()
        try:
            got, rest = relay.means.pipe.move(source, sink, self.most)
        except BlockingIOError:
            return
        except OSError:
            relay.close("")
            return
        relay.active = relay.means.clock.now
        if not got:
            self._source_ended()
            return
        self.count += got
        if rest:
            self._hold(rest)
        elif got >= _CHUNK:
            self._want_more(got)
        else:
            self._want_less()
            self._listen()

    def _want_more(self, got: int) -> None:
        """The sink took it all: the next chunk may be larger, if there was as much as was asked."""
        if got > self.most - _RECORD:
            self.most = min(2 * self.most, len(self.relay.means.buffer))
            if self.is_plain:
                self._listen()

    def _want_less(self) -> None:
        self.most = max(_CHUNK, self.most // 2)

    @property
    def callback(self) -> Callable[[], None]:
        """What moves what is there, in the way that suits the size of the chunks."""
        return self._pour if self.is_plain and self.most > _CHUNK else self

    def _listen(self) -> None:
        self.relay.means.poller.add_reader(self.source.fileno(), self.callback)

    def _gather(self, got: int) -> int:
        """Read further TLS records, so that one write serves many; return the bytes in all."""
        buffer = self.relay.means.buffer
        room = self.most - _RECORD
        try:
            while got <= room:
                more = self.source.recv_into(buffer[got:])
                got += more
                if more != _RECORD:
                    break
        except WANTS:
            pass  # the next readiness tells again
        return got

    def _hold(self, rest: bytes) -> None:
        """Keep `rest` until the sink takes it, and read no more meanwhile."""
        self.backlog = rest
        self._want_less()
        poller = self.relay.means.poller
        poller.remove_reader(self.source.fileno())
        poller.add_writer(self.sink.fileno(), self.writable)

    def writable(self) -> None:
        """The sink takes bytes again; also serves the other flow's TLS that wanted to write."""
        relay = self.relay
        if self.backlog:
            try:
                sent = self.sink.send(self.backlog)
            except WANTS:
                return
            except OSError:
                relay.close("")
                return
            relay.active = relay.means.clock.now
            # memoryview: a slow reader must not cost a copy of the rest each time
            self.backlog = memoryview(self.backlog)[sent:]
            if self.backlog:
                return
            self.backlog = b""
            if self.ended:
                self._end_sink()
                if relay.closed:
                    return
            else:
                self._listen()
        relay.means.poller.remove_writer(self.sink.fileno())
        other = relay.other(self)
        if other.stuck:
            other.stuck = False
            if not other.backlog:  # or else its own `writable` listens again
                other._listen()

    def _wait_to_write(self) -> None:
        self.stuck = True
        relay = self.relay
        relay.means.poller.remove_reader(self.source.fileno())
        relay.means.poller.add_writer(self.source.fileno(), relay.other(self).writable)

    def _source_ended(self) -> None:
        relay = self.relay
        self.ended = _ENDED
        if relay.down.ended and relay.is_over():
            relay.close("")
            return
        relay.means.poller.remove_reader(self.source.fileno())
        relay.owner.relay_due_by(relay.means.clock.now + _QUIET)
        if not self.backlog:
            self._end_sink()

    def _end_sink(self) -> None:
        """Pass the end on. OpenSSL can't send its end without reading, and drops data it reads.

        So a server is told when it has been quiet, by `Relay.due`; it may have long answers under
        way. A client is told at once: what it sends to a server that has ended is lost anyway,
        and the session ends with the first byte that OpenSSL drops, so that no gap arises.
        """
        relay = self.relay
        if relay.up.ended and relay.down.ended and not relay.down.backlog:
            relay.close("")
        elif not isinstance(self.sink, TlsSocket):
            self._shut()
        elif self is relay.down:
            self.tell_tls()

    def tell_tls(self) -> None:
        """Send close_notify to a TLS sink."""
        assert isinstance(self.sink, TlsSocket)
        self.ended = _TOLD
        try:
            self.sink.unwrap()
        except _WANT_READ:
            self._shut()
        except (OSError, ValueError):
            self.relay.close("")
        else:
            self.relay.close("")

    def _shut(self) -> None:
        self.ended = _TOLD
        try:
            socket.SocketType.shutdown(self.sink, socket.SHUT_WR)
        except OSError:
            self.relay.close("")

    def start(self, ours: bytes = b"", early: bytes = b"") -> None:
        """Send what is `ours`, what the source has said too early, then what there is to read."""
        poller = self.relay.means.poller
        if ours or early:
            self.backlog = ours + early
            self.count = len(early)
        if self.ended:
            self._source_ended()
        else:
            poller.add_reader(self.source.fileno(), self)
        if self.backlog:
            if poller.crowded:
                poller.later(self._send_backlog)
            else:
                self._send_backlog()


class PlainFlow(Flow):
    """One between two plain sockets."""

    __slots__ = ()
    is_plain = True


class Relay:
    """Both flows of one session, its idle limit and its end.

    The byte counts are `up.count` (from the client) and `down.count` (from the server).
    """

    __slots__ = ("active", "closed", "down", "means", "owner", "up")

    def __init__(
        self, means: Means, client: socket.SocketType, server: socket.SocketType, owner: Owner
    ) -> None:
        self.means = means
        self.owner = owner
        self.active = means.clock.now
        self.closed = False
        is_tls = isinstance(client, TlsSocket) or isinstance(server, TlsSocket)
        flow = Flow if is_tls else PlainFlow
        self.up = flow(self, client, server)
        self.down = flow(self, server, client)

    def other(self, flow: Flow) -> Flow:
        """The flow against `flow`."""
        return self.down if flow is self.up else self.up

    def is_over(self) -> bool:
        """Whether nothing is under way any more, now that the server has ended.

        Then the session ends at once, as without us: there is nobody who could answer the client.
        """
        up, down = self.up, self.down
        if not up.ended:
            if up.backlog or up.stuck:
                return False
            ioctl(up.source.fileno(), FIONREAD, _COME)
            if _COME != _NOTHING:
                up.callback()
                return self.closed
        return not down.backlog or down.offer(socket.MSG_MORE)  # one packet with the end

    def due(self, now: int) -> int:
        """Close if idle for too long; return the second at which to ask again, 0 for never."""
        if self.closed:
            return 0
        if not (self.up.ended or self.down.ended):
            if not self.means.idle:
                return 0
            if self.active + self.means.idle > now:
                return self.active + self.means.idle
            self.close(IDLE)
            return 0
        quiet = now - self.active
        if self.up.ended == _ENDED and not self.up.backlog and quiet >= _QUIET:
            self.up.tell_tls()
        if not self.closed and quiet >= min(self.means.idle or _LINGER, _LINGER):
            self.close("")
        return 0 if self.closed else now + _QUIET

    def close(self, why: str) -> None:
        """End both directions at once; may be called twice."""
        if self.closed:
            return
        self.closed = True
        up, down, poller = self.up, self.down, self.means.poller
        if up.backlog or down.backlog:
            up.send_last()
            down.send_last()
        client, server = up.source, down.source
        poller.forget(client.fileno())
        poller.forget(server.fileno())
        if poller.crowded:
            poller.then_close(client.close)
            poller.then_close(server.close)
        else:
            client.close()
            server.close()
        self.owner.relay_ended(self, why)
        del up.relay, down.relay  # no cycle is left to the garbage collector
