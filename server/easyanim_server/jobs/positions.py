"""Tells those who wait where they stand, as often as that costs little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from easyanim_server.domain.events import Queued
from easyanim_server.jobs.ticket import Ticket

PER_SECOND = 250
"""Most messages to those who wait. Telling all of a long queue of every change grows with its square: with 200 callers
and jobs of 60 ms the front took 40 % of all CPU time for it."""


class Positions:
    """Of one queue. Used from one event loop."""

    def __init__(self, places: Callable[[], Iterable[tuple[Ticket, Queued]]]) -> None:
        """Prepare.

        Args:
            places: Who waits, and where each one stands now.
        """
        self._places = places
        self._next_round = 0.0
        self._round: asyncio.TimerHandle | None = None

    def announce(self) -> None:
        """Have everybody told: now, or as soon as the last round is far enough back."""
        if self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.call_at(max(self._next_round, loop.time()), self._tell)

    def _tell(self) -> None:
        self._round = None
        told = 0
        for ticket, place in self._places():
            ticket.spool.put(place)
            told += 1
        self._next_round = asyncio.get_running_loop().time() + told / PER_SECOND
