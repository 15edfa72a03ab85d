"""Pictures are decoded in processes of their own, a few at a time, that can be killed at any moment."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from easyanim_server.domain.errors import InvalidArgument, PicturesBusy, ShuttingDown, Violation
from easyanim_server.domain.job import Bucket, FitPolicy, Picture
from easyanim_server.media import picture_child
from easyanim_server.media.picture_process import REAP_SECONDS, Answer, PictureProcess

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 4.5
"""From the wait for a decoder to the last fitted picture: no stream is silent for 5 s, and nothing can be said on one
before the request was accepted."""
WAIT_SECONDS = 3.0
"""Of these, how long a request may wait for a decoder. What is left suffices for pictures of usual size; larger ones
are refused then, and cost the less the longer the queue is."""
CPU_SECONDS = 3.5
"""Of one picture. 50 megapixels with transparency and a colour profile took 2.7 s on one core of a server."""
BASE_MEMORY_BYTES = 512 * 2**20
"""Address space of a decoder without any picture: Python, libraries and a codec's tables."""
BYTES_A_PIXEL = 28
"""Address space beside that: both pictures of a request at 4 bytes a pixel, and five versions of one of them."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture that a decoder holds."""

    width: int
    """Pixels, upright."""
    height: int
    sha256: str
    """Of the file, hex."""


class PicturePool:
    """Processes that decode, started at need and kept. Used from one event loop."""

    def __init__(self, size: int, *, max_pixels: int, max_file_bytes: int) -> None:
        """Prepare; `claim` starts processes.

        Args:
            size: Most processes at a time.
            max_pixels: Most pixels of a picture, width times height.
            max_file_bytes: Most bytes of a request's pictures.
        """
        self.max_pixels = max_pixels
        self.memory_bytes = BASE_MEMORY_BYTES + BYTES_A_PIXEL * max_pixels + 4 * max_file_bytes
        self.closed = False
        self._free = size
        self._turns: deque[asyncio.Future[None]] = deque()
        self._idle: list[PictureProcess] = []
        self._children: set[PictureProcess] = set()
        # Each serves one child; those of children that were killed may take a moment to end.
        self._threads = ThreadPoolExecutor(4 * size, "picture")

    @property
    def pids(self) -> list[int]:
        """Of the processes that there are."""
        return [child.pid for child in self._children]

    @property
    def working(self) -> list[int]:
        """Those of them that do something now."""
        return [child.pid for child in self._children if child.at_work]

    @property
    def waiting(self) -> int:
        """Requests that wait for a decoder."""
        return sum(not turn.done() for turn in self._turns)

    @asynccontextmanager
    async def claim(self) -> AsyncIterator[Decoder]:
        """Have a decoder for one request. Leaving while it works kills it.

        Raises:
            PicturesBusy: none becomes free within `WAIT_SECONDS`, or no process can be started.
            ShuttingDown: the pool is closed.
        """
        until = time.monotonic() + ANSWER_SECONDS
        await self._take_turn()
        try:
            child = self._child()
            try:
                yield Decoder(self, child, until)
            finally:
                self._put_back(child)
        finally:
            self._give_turn()

    async def close(self) -> None:
        """Kill all processes and refuse whoever waits for one or has one; returns when they are gone."""
        self.closed = True
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(ShuttingDown())
        ends = [asyncio.wrap_future(end) for end in map(self._kill, tuple(self._children)) if end is not None]
        self._threads.shutdown(wait=False)
        if ends:
            await asyncio.wait(ends, timeout=REAP_SECONDS)

    async def _take_turn(self) -> None:
        if self.closed:
            raise ShuttingDown
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            # Not `wait_for`: before Python 3.12 it swallows a cancel that comes at the same moment as the turn.
            done, _ = await asyncio.wait([turn], timeout=WAIT_SECONDS)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_turn()
            raise
        finally:
            with suppress(ValueError):
                self._turns.remove(turn)
            turn.cancel()
        if not done:
            raise PicturesBusy
        turn.result()

    def _give_turn(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _child(self) -> PictureProcess:
        while self._idle:
            child = self._idle.pop()
            if child.process.poll() is None:
                return child
            self._kill(child)
        try:
            child = PictureProcess.start(self.memory_bytes)
        except OSError as error:  # of processes, descriptors or memory there are too few for the moment
            log.error("picture process cannot be started", error=str(error))
            raise PicturesBusy from error
        self._children.add(child)
        return child

    def _put_back(self, child: PictureProcess) -> None:
        if child.at_work or self.closed or not child.forget():
            self._kill(child)
        else:
            self._idle.append(child)

    def _kill(self, child: PictureProcess) -> Future[None] | None:
        """End a process at once; returns what is done when it is gone. None where that was begun before."""
        if child not in self._children:
            return None
        self._children.discard(child)
        child.process.kill()
        return self._threads.submit(child.hang_up)  # a large process takes a while to be gone

    async def ask(
        self, child: PictureProcess, header: picture_child.Header, content: bytes | memoryview, until: float
    ) -> Answer:
        """Have a child do one thing.

        Raises:
            PicturesBusy: it takes longer than `until`; the child is killed.
            ShuttingDown: the pool is closed.
        """
        if self.closed:
            raise ShuttingDown
        child.at_work = True
        answer = asyncio.get_running_loop().run_in_executor(self._threads, child.converse, header, content)
        done, _ = await asyncio.wait([answer], timeout=max(0.0, until - time.monotonic()))
        if self.closed:
            raise ShuttingDown
        if not done:  # it stays at work, so it is killed
            raise PicturesBusy
        return answer.result()


class Decoder:
    """A decoder of one request; it keeps what it has loaded until the request is done with it."""

    def __init__(self, pool: PicturePool, child: PictureProcess, until: float) -> None:
        self._pool = pool
        self._child = child
        self._until = until

    async def load(self, field: str, data: bytes | memoryview, background: str) -> Loaded:
        """Decode a file; see `picture.load`.

        Args:
            field: The request's field, as refusals name it.
            data: The file.
            background: ``#rrggbb``.

        Raises:
            InvalidArgument: the file is refused, or its decoder did not survive it.
            PicturesBusy: the machine is too busy to decode it in time.
            ShuttingDown: the server drains.
        """
        header = {"do": "load", "field": field, "max_pixels": self._pool.max_pixels, "background": background}
        found, _ = await self._ask(field, header, data)
        return Loaded(int(found["width"]), int(found["height"]), str(found["sha256"]))

    async def fit(self, field: str, bucket: Bucket, policy: FitPolicy, background: str, sha256: str = "") -> Picture:
        """Bring a loaded picture to a bucket's size; see `picture.fit`.

        Raises:
            InvalidArgument: the decoder did not survive it.
            PicturesBusy: the machine is too busy to do it in time.
            ShuttingDown: the server drains.
        """
        shape = (bucket.height, bucket.width, bucket.frames)
        header = {"do": "fit", "field": field, "bucket": shape, "policy": policy.value, "background": background}
        _, rgb = await self._ask(field, header, b"")
        return Picture(bucket.width, bucket.height, rgb, sha256)

    async def _ask(
        self, field: str, header: picture_child.Header, data: bytes | memoryview
    ) -> tuple[picture_child.Header, bytes]:
        answer = await self._pool.ask(self._child, {**header, "cpu_seconds": CPU_SECONDS}, data, self._until)
        if answer.frame is not None:
            found, content = answer.frame
            if "failed" in found:
                raise RuntimeError(f"the picture process failed: {found['failed']}")
            if "refused" in found or "no_memory" in found:
                raise InvalidArgument([Violation(field, found.get("refused") or self._too_large())])
            return found, content
        how = _how(answer.exit_code)
        log.warning("picture process ended", field=field, how=how, file_bytes=len(data))
        if not answer.began:
            raise RuntimeError(f"the picture process did not start ({how})")
        if answer.exit_code == -signal.SIGPROF:
            description = f"takes more than {CPU_SECONDS:g} s of CPU time to decode; must be a simpler file"
        else:
            description = f"ended the process that decoded it ({how}); must be another file"
        raise InvalidArgument([Violation(field, description)])

    def _too_large(self) -> str:
        mebibytes = self._pool.memory_bytes >> 20
        return (
            f"takes more than the {mebibytes} MiB of memory that a picture may take to decode; must be a simpler file"
        )


def _how(exit_code: int | None) -> str:
    return f"killed by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
