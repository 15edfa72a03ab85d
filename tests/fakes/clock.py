"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Due:
    """A call that a `SteppedClock` makes when its time has come."""

    def __init__(self, time: float, function: Callable[[], None]) -> None:
        self.time = time
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class SteppedClock:
    """Implements `Clock`; starts at 0."""

    def __init__(self) -> None:
        self.time = 0.0
        self._due: list[Due] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        due = self.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            due.cancel()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Due:
        due = Due(self.time + seconds, function)
        self._due.append(due)
        return due

    @property
    def next_due(self) -> float | None:
        """When the next call is due; None where none is."""
        self._due = [due for due in self._due if not due.cancelled]
        return min((due.time for due in self._due), default=None)

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass, with everything that is due in them, in order."""
        until = self.time + seconds
        await settle()
        while (time := self.next_due) is not None and time <= until:
            due = min(self._due, key=lambda due: due.time)
            self._due.remove(due)
            self.time = max(self.time, time)
            due.function()
            await settle()
        self.time = until


async def settle() -> None:
    """Let all tasks run that do not wait for time or for threads."""
    for _ in range(50):
        await asyncio.sleep(0)
