"""A TCP proxy that can fall silent: a dead network, in which neither side hears that the other one has gone."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Passes bytes between callers and the server at `target`, in threads of its own."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._silent = threading.Event()
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.address = "{}:{}".format(*self._sockets[0].getsockname())

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, args=self._sockets, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for end in self._sockets:
            with suppress(OSError):  # it is closed by its other side
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def fall_silent(self) -> None:
        """Pass nothing on from now, and close nothing."""
        self._silent.set()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, far = listening.accept()[0], socket.create_connection(self._target)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if not self._silent.is_set():
                    target.sendall(data)
            if not self._silent.is_set():
                target.shutdown(socket.SHUT_WR)
