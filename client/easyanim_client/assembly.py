"""Messages of one generation in; typed events and a verified video out. Knows files, not gRPC."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import uuid
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from easyanim.v1 import video_pb2 as pb
from easyanim_client import messages
from easyanim_client.errors import CorruptVideo
from easyanim_client.results import Chunk, Event, Restarted, Video
from easyanim_client.saving import Overwrite, check_target, move_into_place
from easyanim_client.wording import counted


@cache
def keep_freed_memory() -> None:
    """Have glibc keep a few megabytes that it frees, for the rest of the process.

    Otherwise it returns every chunk's memory to the system and faults it in again for the next one, which halves the
    throughput of a large file. Its thresholds follow the largest block that was ever freed, see mallopt(3).
    """
    bytearray(16 * 2**20)


class Assembly:
    """Folds the messages of one generation and puts its file together.

    Used as a context: bytes go to a hidden file beside `save_to`, which `finish` moves into place and which is
    removed on leaving in any other way. Without `save_to` they are kept in memory.

    Args:
        save_to: The file to write.
        overwrite: What becomes of an older one, see `saving.Overwrite`.
    """

    def __init__(self, save_to: Path | None, overwrite: Overwrite = False) -> None:
        self._target = save_to
        self._overwrite = overwrite
        self._partial: Path | None = None
        self._process = os.getpid()
        self._file: BinaryIO = io.BytesIO()
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._completed: pb.Completed | None = None

    def __enter__(self) -> Assembly:
        keep_freed_memory()
        self._process = os.getpid()
        if self._target is not None:
            check_target(self._target, self._overwrite)
            self._partial = self._target.with_name(f".{self._target.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                self._file = self._partial.open("xb")
            except OSError as error:  # of the file that was asked for, not of the hidden one beside it
                missing = error.errno == errno.ENOENT
                why = "the folder does not exist" if missing else error.strerror
                raise OSError(error.errno, why, str(self._target)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._partial is not None and self._process == os.getpid():  # a fork's copy leaves the file to its parent
            self._partial.unlink(missing_ok=True)

    def fold(self, message: pb.GenerateResponse) -> Event | None:
        """The event in a message; None for `completed`, which `finish` reports, and for unknown kinds.

        Raises:
            CorruptVideo: a chunk does not continue the file.
            OSError: the file cannot be written.
        """
        kind = message.WhichOneof("event")
        if kind == "accepted":
            return messages.accepted(message.accepted)
        if kind == "queued":
            return messages.queued(message.queued)
        if kind == "progress":
            return messages.progress(message.progress)
        if kind == "chunk":
            return self._append(message.chunk)
        if kind == "restarted":
            return self._restart(message.restarted)
        if kind == "completed":
            self._completed = message.completed
        return None

    def _append(self, chunk: pb.Chunk) -> Chunk:
        if chunk.offset_bytes != self._size:
            raise CorruptVideo(f"a chunk starts at byte {chunk.offset_bytes} where byte {self._size} was expected")
        data = chunk.data  # once: protobuf copies the bytes at every look
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)
        return Chunk(chunk.offset_bytes, data)

    def _restart(self, message: pb.Restarted) -> Restarted:
        self._file.seek(0)
        self._file.truncate()
        self._size = 0
        self._sha256 = hashlib.sha256()
        return Restarted(message.attempt, message.reason, message.detail)

    def finish(self, request_id: str = "") -> Video:
        """Compare what arrived with what was announced, and move the file into place.

        Args:
            request_id: Of the call.

        Raises:
            CorruptVideo: the two differ, or `completed` never came.
            OSError: the file cannot be written.
        """
        completed = self._completed
        if completed is None:
            raise CorruptVideo("the stream ended before the video was complete")
        if self._size != completed.size_bytes:
            raise CorruptVideo(f"{counted(self._size, 'byte')} arrived of a file that has {completed.size_bytes}")
        if self._sha256.digest() != completed.sha256:
            raise CorruptVideo("the SHA-256 of what arrived is not the one that the server announced")
        data = self._file.getvalue() if isinstance(self._file, io.BytesIO) else None
        self._file.close()
        path = None
        if self._partial is not None and self._target is not None:
            path = move_into_place(self._partial, self._target, self._overwrite)
        return Video(
            path=path,
            data=data,
            size=self._size,
            sha256=completed.sha256.hex(),
            timings=messages.timings(completed.timings),
            peak_device_bytes=completed.peak_device_memory_bytes,
            receipt=messages.receipt(completed.receipt),
            request_id=request_id,
        )
