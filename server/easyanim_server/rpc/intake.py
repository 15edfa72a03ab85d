"""Bounds what requests take in memory before they are jobs.

gRPC reads a message into memory only once the server asks for it; until then a caller can fill no more than its
stream's flow-control window, see `WINDOW_BYTES`. So a call first gets a place here, and its message is read after that.
A message's size is known only when all of it is there: a place counts as the largest message until then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from easyanim_server.domain.errors import EasyAnimError, IntakeFull, InvalidArgument, Violation
from easyanim_server.rpc.status import to_status
from easyanim_server.rpc.trim import Trimmer

WINDOW_BYTES = 65_535
"""What gRPC takes of a message that nobody has asked for yet; the smallest window that HTTP/2 begins with."""

MOST_WAITING = 64
"""Calls that wait for a place; each may have filled its window."""
WAIT_SECONDS = 3.0
"""How long a call waits for a place, so that its caller has an answer within the 5 seconds of a heartbeat."""


class EndOfMessages(Exception):
    """A caller has sent all that it will send."""


class Place:
    """One call's share of the bytes, from before its message is read until `release`."""

    def __init__(self, size: int, give_back: Callable[[int], None]) -> None:
        self._size = size
        self._give_back = give_back

    def shrink(self, size: int) -> None:
        """Keep so many bytes and give back the others; a place never grows."""
        kept = min(size, self._size)
        given, self._size = self._size - kept, kept
        if given:
            self._give_back(given)

    def release(self) -> None:
        """Give everything back; more than once is no error."""
        self.shrink(0)


@dataclass(eq=False)
class _Reading:
    """A message that is being received."""

    context: Any
    began: float
    timer: asyncio.TimerHandle | None = None
    ending: asyncio.Task[None] | None = field(default=None, repr=False)


class Intake:
    """Hands out places of one budget. Used from one event loop.

    The newest call that waits gets the next place: where more come than can be served, the old ones are those whose
    callers have given up, or mean harm. A message that arrives too slowly makes room when others wait.
    """

    def __init__(
        self, limit: int, largest: int, *, patience: float = math.inf, grace: float = math.inf, full: str = ""
    ) -> None:
        """Prepare an empty one.

        Args:
            limit: Bytes in all, at least `largest`.
            largest: Bytes that one message may have.
            patience: Seconds that a message may take to arrive.
            grace: Seconds that it may take while others wait for a place.
            full: What callers are told who get no place; by default that the bytes are taken.
        """
        self._message = full or f"requests that are no jobs yet may take {limit} bytes, and do"
        self._limit = limit
        self._largest = largest
        self._patience = patience
        self._grace = grace
        self._taken = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._readings: dict[_Reading, None] = {}
        self._trimmer = Trimmer()

    @property
    def taken(self) -> int:
        """Bytes of all places."""
        return self._taken

    @property
    def waiting_count(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    async def place(self) -> Place:
        """Wait for a place for one message; its call must release it.

        Raises:
            IntakeFull: there was none in time.
        """
        if self._waiting or self._taken + self._largest > self._limit:
            await self._wait()
        else:
            self._taken += self._largest
        return Place(self._largest, self._give_back)

    async def read(self, place: Place, context: Any, most: int) -> bytes:
        """Receive the message of a call; afterwards its place has the message's size.

        Args:
            place: The call's own.
            context: The call's servicer context.
            most: Bytes that this message may have.

        Raises:
            EndOfMessages: there is none.
            InvalidArgument: it is too large.
            AbortError: it did not arrive in time, and the call was ended.
        """
        reading = _Reading(context, asyncio.get_running_loop().time())
        self._readings[reading] = None
        self._watch(reading)
        try:
            data = await context.read()
        finally:
            del self._readings[reading]
            if reading.timer is not None:
                reading.timer.cancel()
        if data is grpc.aio.EOF:
            raise EndOfMessages
        if len(data) > most:
            raise InvalidArgument([Violation("request", f"has {len(data)} bytes; must have at most {most}")])
        place.shrink(len(data))
        return bytes(data)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        if len(self._waiting) >= MOST_WAITING:
            self._refuse(next(iter(self._waiting)))
        self._waiting[granted] = None
        for reading in self._readings:
            self._watch(reading)
        timer = loop.call_later(WAIT_SECONDS, self._refuse, granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._give_back(self._largest)
            raise
        finally:
            timer.cancel()
            self._waiting.pop(granted, None)

    def _refuse(self, granted: asyncio.Future[None]) -> None:
        if not granted.done():
            granted.set_exception(self._full(self._message))
        self._waiting.pop(granted, None)

    def _full(self, detail: str) -> IntakeFull:
        return IntakeFull(detail)

    def _give_back(self, size: int) -> None:
        self._taken -= size
        self._trimmer.freed(size)
        while self._waiting and self._taken + self._largest <= self._limit:
            granted, _ = self._waiting.popitem()
            if not granted.done():
                self._taken += self._largest
                granted.set_result(None)

    def _watch(self, reading: _Reading) -> None:
        """Set the clock for a message that is being received: short while others wait."""
        loop = asyncio.get_running_loop()
        if reading.timer is not None:
            reading.timer.cancel()
        allowed = min(self._grace, self._patience) if self._waiting else self._patience
        left = max(0.0, reading.began + allowed - loop.time())
        reading.timer = loop.call_later(left, self._late, reading, allowed) if left < 2**31 else None

    def _late(self, reading: _Reading, allowed: float) -> None:
        if allowed < self._patience and not self._waiting:  # they have their places meanwhile
            self._watch(reading)
        else:
            error = self._full(f"the request did not arrive within {allowed:g} s")
            reading.ending = asyncio.create_task(_end(reading.context, error))


async def _end(context: Any, error: EasyAnimError) -> None:
    """End a call whose handler waits for a message; the wait ends with it."""
    with suppress(grpc.aio.BaseError):  # it was ended, or its caller has left
        await context.abort_with_status(to_status(error))
