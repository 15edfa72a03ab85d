"""The bytes of one result on disk, written and read by a few threads of their own: a slow disk holds up no event loop.

A file has no name: the system removes it with its last handle, after a crash too.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

THREADS = 4
"""Of all results together. Each has at most one write and one read per reader on its way, so no queue grows."""

_threads = ThreadPoolExecutor(THREADS, "results")


@cache
def keep_freed_memory() -> None:
    """Have glibc keep a few megabytes that it frees, for the rest of the process.

    Otherwise it returns every chunk's memory to the system and faults it in again for the next one, which halves the
    throughput of a large file. Its thresholds follow the largest block that was ever freed, see mallopt(3).
    """
    bytearray(16 * 2**20)


async def on_disk_thread(function: Callable[[], T]) -> T:
    """Run what may wait for the disk on one of the threads of this module."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function)


def free_bytes(folder: Path | None = None) -> tuple[int, int]:
    """Free bytes, and all bytes, of the file system that holds `folder`, by default that of temporary files.

    Waits for the disk.
    """
    found = os.statvfs(folder or tempfile.gettempdir())
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class ResultFile:
    """One unnamed file. Its methods are called on an event loop, which they never hold up."""

    def __init__(self, folder: Path | None = None) -> None:
        """Prepare; the file is made with the first write, since a job that waits must cost no file handle.

        Args:
            folder: Where the file is made; None for the system's directory for temporary files.
        """
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()
        """Held while a thread uses the handle, which the system may give to another file as soon as it is closed."""

    async def write(self, data: bytes, offset: int) -> None:
        """Keep `data` at `offset`; of no effect once the file is closed.

        Raises:
            OSError: the disk is full.
        """
        await on_disk_thread(lambda: self._write(data, offset))

    async def read(self, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset`; empty once the file is closed."""
        return await on_disk_thread(lambda: self._read(count, offset))

    def close(self) -> Future[None]:
        """Give the disk space back, after what is on its way; the future is done when that has happened."""
        return _threads.submit(self._close)

    def _write(self, data: bytes, offset: int) -> None:
        with self._lock:
            if self._closed:
                return
            if self._file is None:
                keep_freed_memory()
                self._file = tempfile.TemporaryFile(prefix="easyanim-", dir=self._folder)  # noqa: SIM115 - `close` ends it
            rest = memoryview(data)
            while rest:  # a disk that fills up takes a part, and is an error with the next byte
                written = os.pwrite(self._file.fileno(), rest, offset)
                rest, offset = rest[written:], offset + written

    def _read(self, count: int, offset: int) -> bytes:
        with self._lock:
            return b"" if self._file is None or self._closed else os.pread(self._file.fileno(), count, offset)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()
