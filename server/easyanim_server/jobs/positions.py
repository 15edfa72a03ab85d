"""Tells those who wait where they stand, as often as that costs little."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock, Timer
from easyanim_server.domain.events import Queued
from easyanim_server.domain.record import JobRecord

PER_SECOND = 250
"""Most messages to those who wait. Telling all of a long queue of every change grows with its square: with 200 callers
and jobs of 60 ms the front took 40 % of all CPU time for it."""


class Positions:
    """Announces the positions of one queue. Used from one event loop."""

    def __init__(
        self,
        places: Callable[[], Iterable[tuple[JobRecord, Queued]]],
        tell: Callable[[JobRecord, Queued], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare.

        Args:
            places: Who waits, and where each one stands now.
            tell: Passes a position on to the readers of a job.
            clock: When the next round is due.
        """
        self._places = places
        self._pass_on = tell
        self._clock = clock
        self._next_round = 0.0
        self._round: Timer | None = None

    def announce(self) -> None:
        """Have everybody told: now, or as soon as the last round is far enough back."""
        if self._round is None:
            self._round = self._clock.call_later(max(0.0, self._next_round - self._clock.now()), self._tell)

    def _tell(self) -> None:
        self._round = None
        told = 0
        for record, place in self._places():
            self._pass_on(record, place)
            told += 1
        self._next_round = self._clock.now() + told / PER_SECOND
