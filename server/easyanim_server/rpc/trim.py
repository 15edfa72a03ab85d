"""Returns freed memory to the system after large requests: glibc keeps it, for each thread that it was allocated by."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from functools import cache

LARGE_BYTES = 1 * 2**20
"""A message from this size on is worth the milliseconds that looking for free pages takes."""
PAUSE_SECONDS = 0.25
"""Between one time and the next, so that a flood of requests is none of trimming."""


M_ARENA_MAX, ARENAS = -8, 2
"""glibc's name for the limit, see mallopt(3); and one heap for the event loop, one for gRPC's threads. By default there
are eight a core: 50 callers with 30 MiB each leave twice as much behind in those."""


@cache
def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of that name, as musl and macOS."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def limit_arenas() -> None:
    """Have this process allocate from a few heaps only; before it starts threads."""
    if (mallopt := _function("mallopt")) is not None:
        mallopt(M_ARENA_MAX, ARENAS)


class Trimmer:
    """Trims `PAUSE_SECONDS` after a large message was given up, once for all of that time, on another thread."""

    def __init__(self) -> None:
        """Prepare; nothing runs before the first large message."""
        self._due = False

    def freed(self, size: int) -> None:
        """Note that so many bytes are not needed any more. Called from the event loop."""
        if size >= LARGE_BYTES and not self._due and (trim := _function("malloc_trim")) is not None:
            self._due = True
            # Later: the bytes' last owners let go of them meanwhile.
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._trim, trim)

    def _trim(self, trim: Callable[..., int]) -> None:
        self._due = False
        asyncio.get_running_loop().run_in_executor(None, trim, 0)
