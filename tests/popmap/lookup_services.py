"""Look-up services of our own for the maps that ask one: a thread that answers on a fixed port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.popmap.battery import Entries
from tests.servers.ports import free_port

Talk = Callable[[socket.socket, Entries], None]  # answers one connection until its end


class Service:
    """A stream service; `entries` is what it answers from."""

    def __init__(self, talk: Talk) -> None:
        self.port = free_port()
        self.entries: Entries = {}
        self._talk = talk
        self._listening: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.awake = threading.Event()
        self.resume()

    def fill(self, entries: Entries) -> None:
        self.entries = entries

    def start(self) -> None:
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
            self._run(self._serve, self._listening)

    def stop(self) -> None:
        """Close everything, as a crash would."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            for sock in self._connections:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()
            self._listening.close()
            self._listening, self._threads, self._connections = None, [], []

    def pause(self) -> None:
        """Hang: connections are taken, questions heard, and nothing is answered."""
        self.awake.clear()

    def resume(self) -> None:
        self.awake.set()

    def _run(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,))
        self._threads.append(thread)
        thread.start()

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, _ = listening.accept()
                self._connections.append(sock)
                self._run(self._connection, sock)

    def _connection(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            self._talk(sock, _View(self))


class _View(dict[bytes, bytes]):
    """What the service knows at the moment it is asked."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def get(self, key: bytes, default: object = None) -> bytes | None:  # type: ignore[override]
        self._service.awake.wait(10)
        return self._service.entries.get(key)
