"""Keeps stdout and stderr writable: whoever does not read them loses lines, and never stops the server.

A pipe that nobody reads, or a terminal that is held, blocks every writer: logging, warnings, what libraries in C print,
and the worker process, which inherits both. So both become pipes to threads of this process, which pass on what can be
passed on, and drop and count the rest.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import select
import threading
from collections import deque

import structlog

log = structlog.get_logger(__name__)

HELD_BYTES = 2**20
"""Most that waits to be passed on; about ten thousand lines."""
READ_BYTES = 2**16
GOODBYE_SECONDS = 1.0
"""How long the end of the process waits for what was written last to be read."""


class Outlet:
    """One of the process's standard outputs, by its file descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Put a pipe in its place; two threads pass on what comes out of it."""
        self._descriptor = descriptor
        self._real = os.dup(descriptor)
        self.on_terminal = os.isatty(descriptor)
        self._source, sink = os.pipe()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._source, False)
        os.dup2(sink, descriptor)
        os.close(sink)
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._changed = threading.Condition()
        self.dropped_lines = 0
        self._reader = threading.Thread(target=self._read, name=f"output-{descriptor}-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"output-{descriptor}-writer", daemon=True)
        self._reader.start()
        self._writer.start()

    def close(self) -> None:
        """Give the descriptor its own end back, and pass on the rest for as long as that may take."""
        os.dup2(self._real, self._descriptor)
        os.write(self._waker, b"x")
        self._reader.join(GOODBYE_SECONDS)
        self._writer.join(GOODBYE_SECONDS)

    def _read(self) -> None:
        ending = False
        while not ending:
            ready, _, _ = select.select([self._source, self._wake], [], [])
            ending = self._wake in ready
            while data := self._available():
                self._hold(data)
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _available(self) -> bytes:
        try:
            return os.read(self._source, READ_BYTES)
        except BlockingIOError:
            return b""

    def _hold(self, data: bytes) -> None:
        with self._changed:
            if self._held_bytes + len(data) > HELD_BYTES:
                self.dropped_lines += data.count(b"\n")
                return
            self._held.append(data)
            self._held_bytes += len(data)
            self._changed.notify()

    def _write(self) -> None:
        said = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._ended)
                if not self._held:
                    return
                data = self._held.popleft()
                self._held_bytes -= len(data)
                dropped = 0 if self._held else self.dropped_lines - said
            self._pass_on(data)
            if dropped:
                said += dropped
                log.warning("output was not read, so lines were dropped", descriptor=self._descriptor, lines=dropped)

    def _pass_on(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._real, rest) :]
            except BlockingIOError:  # whoever shares it has made it so
                select.select([], [self._real], [])
            except OSError:  # a terminal or a reader that is gone
                self.dropped_lines += bytes(rest).count(b"\n")
                return


_outlets: list[Outlet] = []
"""The process has one stdout and one stderr, and so they are the process's."""


def keep_writable() -> None:
    """Put an `Outlet` in the place of stdout and stderr, until the process ends."""
    if _outlets:
        return
    faulthandler.enable(os.dup(2))  # what a crash says last does not pass through threads that die with it
    for descriptor in (1, 2):
        _outlets.append(outlet := Outlet(descriptor))
        atexit.register(outlet.close)


def on_terminal() -> bool:
    """Whether what goes to stderr is read on a terminal, be there an `Outlet` between or not."""
    return _outlets[1].on_terminal if _outlets else os.isatty(2)


def dropped_lines() -> int:
    """Lines of stdout and stderr that were dropped so far, since nobody read them."""
    return sum(outlet.dropped_lines for outlet in _outlets)
