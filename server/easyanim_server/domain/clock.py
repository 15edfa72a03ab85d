"""The time that waits are measured with; injected, so that tests can step it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call; of no effect once it was made."""


class Clock(Protocol):
    """A monotonic clock in seconds, with an arbitrary zero. Used from one event loop."""

    def now(self) -> float:
        """Seconds since the clock's zero."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call `function` after so many seconds, on the event loop."""


class SystemClock:
    """The machine's monotonic clock, which is that of asyncio."""

    def now(self) -> float:
        """Seconds since the system started."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call on the running event loop."""
        return asyncio.get_running_loop().call_later(seconds, function)


SYSTEM_CLOCK = SystemClock()
