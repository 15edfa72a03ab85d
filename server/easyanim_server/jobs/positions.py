"""Tells those who wait where they stand, as often as that costs little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock, Timer
from easyanim_server.domain.events import Queued
from easyanim_server.domain.record import JobRecord

PER_SECOND = 250
"""Most messages to those who wait. Telling all of a long queue of every change grows with its square: with 200 callers
and jobs of 60 ms the front took 40 % of all CPU time for it."""
SLICE = 100
"""Messages at a stretch, which take about a millisecond; then the event loop does other things first."""


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
        self._going: Iterator[tuple[JobRecord, Queued]] | None = None
        """Who is still to be told in the round that is under way."""
        self._told = 0
        self._again = False

    def announce(self) -> None:
        """Have everybody told: now, or as soon as the last round is far enough back."""
        if self._going is not None:  # those who were told already stand elsewhere now
            self._again = True
        elif self._round is None:
            self._round = self._clock.call_later(max(0.0, self._next_round - self._clock.now()), self._begin)

    def _begin(self) -> None:
        self._going, self._told = iter(self._places()), 0
        self._go_on()

    def _go_on(self) -> None:
        assert self._going is not None, "a round is under way"
        told = 0
        for record, place in islice(self._going, SLICE):
            self._pass_on(record, place)
            told += 1
        self._told += told
        if told == SLICE:
            self._round = self._clock.call_later(0.0, self._go_on)
            return
        self._round = self._going = None
        self._next_round = self._clock.now() + self._told / PER_SECOND
        if self._again:
            self._again = False
            self.announce()
