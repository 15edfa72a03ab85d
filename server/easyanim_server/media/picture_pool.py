"""Pictures are decoded in processes of their own, a few at a time, that can be killed at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.spawn import get_executable

import structlog

from easyanim_server.domain.errors import InvalidArgument, PicturesBusy, ShuttingDown, Violation
from easyanim_server.domain.job import Bucket, FitPolicy, Picture
from easyanim_server.media import picture_child

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 4.5
"""From the wait for a decoder to the last fitted picture: no stream is silent for 5 s, and nothing can be said on one
before the request was accepted."""
WAIT_SECONDS = 3.0
"""Of these, how long a request may wait for a decoder. What is left suffices for pictures of usual size; larger ones
are refused then, and cost the less the longer the queue is."""
CPU_SECONDS = 3.5
"""Of one picture. 50 megapixels with transparency and a colour profile took 2.7 s on one core of a server."""
REAP_SECONDS = 1.0
"""How long a process that was killed may take to be gone; it holds at most some memory by then."""
BASE_MEMORY_BYTES = 512 * 2**20
"""Address space of a decoder without any picture: Python, libraries and a codec's tables."""
BYTES_A_PIXEL = 28
"""Address space beside that: both pictures of a request at 4 bytes a pixel, and five versions of one of them."""

_BOOT = """
import sys, json
path, parent, memory = json.loads(sys.argv[1])
sys.path[:] = path
from easyanim_server.media import picture_child
picture_child.main(parent, memory)
"""
"""Modules are found where this process finds them. Not multiprocessing's own start, which imports the server's main
module with all that it needs."""


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
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        # Each serves one child; those of children that were killed may take a moment to end.
        self._threads = ThreadPoolExecutor(4 * size, "picture")

    @property
    def pids(self) -> list[int]:
        """Of the processes that there are."""
        return [child.pid for child in self._children]

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

    def _child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.process.poll() is None:
                return child
            self._kill(child)
        try:
            child = _Child.start(self.memory_bytes)
        except OSError as error:  # of processes, descriptors or memory there are too few for the moment
            log.error("picture process cannot be started", error=str(error))
            raise PicturesBusy from error
        self._children.add(child)
        return child

    def _put_back(self, child: _Child) -> None:
        if child.at_work or self.closed or not child.forget():
            self._kill(child)
        else:
            self._idle.append(child)

    def _kill(self, child: _Child) -> Future[None] | None:
        """End a process at once; returns what is done when it is gone. None where that was begun before."""
        if child not in self._children:
            return None
        self._children.discard(child)
        child.process.kill()
        return self._threads.submit(child.hang_up)  # a large process takes a while to be gone

    async def ask(self, child: _Child, header: picture_child.Header, content: bytes, until: float) -> _Answer:
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

    def __init__(self, pool: PicturePool, child: _Child, until: float) -> None:
        self._pool = pool
        self._child = child
        self._until = until

    async def load(self, field: str, data: bytes, background: str) -> Loaded:
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

    async def _ask(self, field: str, header: picture_child.Header, data: bytes) -> tuple[picture_child.Header, bytes]:
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


@dataclass(frozen=True, slots=True)
class _Answer:
    frame: tuple[picture_child.Header, bytes] | None
    """None where the process ended instead."""
    began: bool = True
    """Whether the process was ever ready."""
    exit_code: int | None = None
    """Of the process that ended; negative where a signal ended it."""


class _Child:
    """One process with its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.at_work = False
        """Whether a thread converses with it."""
        self._began = False
        self._conversing = threading.Lock()

    @classmethod
    def start(cls, memory_bytes: int) -> _Child:
        """Start one; called on the event loop's own thread, with whose end the kernel kills the process."""
        given = json.dumps([sys.path, os.getpid(), memory_bytes])
        # A new program, begun by vfork: a fork of this process would carry over gRPC's threads and locks.
        process = subprocess.Popen(
            [get_executable(), "-c", _BOOT, given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return cls(process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def converse(self, header: picture_child.Header, content: bytes) -> _Answer:
        """Send a command and wait for its answer. Runs on a thread; ends when the process does."""
        with self._conversing:
            return self._converse(header, content)

    def _converse(self, header: picture_child.Header, content: bytes) -> _Answer:
        commands, answers = self.process.stdin, self.process.stdout
        assert commands is not None
        assert answers is not None
        with suppress(OSError, ValueError):  # it has ended; what its answer is, or that there is none, is read below
            picture_child.write(commands, header, content)
        try:
            self._began = self._began or picture_child.read(answers) is not None
            frame = picture_child.read(answers)
        except (OSError, ValueError, KeyError):  # what no decoder of ours would say
            frame = None
        if frame is None:
            self.process.kill()
            self.reap()
            return _Answer(None, self._began, self.process.returncode)
        self.at_work = False
        return _Answer(frame)

    def forget(self) -> bool:
        """Have it drop what it holds; whether it can be used again."""
        assert self.process.stdin is not None
        try:
            picture_child.write(self.process.stdin, {"do": "forget"})  # some bytes into an empty pipe
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        """Reap a process that was killed, and close its pipes once no thread converses with it."""
        self.reap()
        with self._conversing:
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def reap(self) -> None:
        """Wait until it is gone, but not for ever."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_SECONDS)


def _how(exit_code: int | None) -> str:
    return f"killed by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
