"""Where the bytes of results are kept while they are made and read."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from easyanim_server.jobs import resultfile
from easyanim_server.jobs.resultfile import ResultFile


class Artifact(Protocol):
    """The bytes of one result. No method holds up the event loop that it is called on."""

    async def write(self, data: bytes, offset: int) -> None:
        """Keep `data` at `offset`; of no effect once it is closed.

        Raises:
            OSError: there is no room, or the storage fails. The same bytes may be tried again.
        """

    async def read(self, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset`; empty once it is closed."""

    def close(self) -> Future[None]:
        """Give the space back, after what is on its way; the future is done when that has happened."""


class Artifacts(Protocol):
    """Storage for results, whose room `Quotas` shares out."""

    def create(self) -> Artifact:
        """A new empty artifact; takes no space and no file handle before its first write."""

    async def room(self) -> tuple[int, int]:
        """Free bytes, and all bytes, of the storage.

        Raises:
            OSError: the storage cannot be asked.
        """


class DirectoryArtifacts:
    """Unnamed files in one directory. Implements `Artifacts`."""

    def __init__(self, folder: Path | None = None) -> None:
        """Prepare; nothing is written.

        Args:
            folder: Where files are made; None for the system's directory for temporary files.
        """
        self._folder = folder

    def create(self) -> ResultFile:
        """A file that is made with its first write."""
        return ResultFile(self._folder)

    async def room(self) -> tuple[int, int]:
        """Free and all bytes of the directory's file system."""
        return await resultfile.on_disk_thread(lambda: resultfile.free_bytes(self._folder))
