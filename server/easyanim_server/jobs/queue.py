"""The waiting jobs in the order of a policy, and what they are expected to take."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.eta import Estimator


class QueuePolicy(Protocol):
    """Decides the order of waiting jobs. A pure function: it reads the record and the time, and keeps nothing."""

    def key(self, record: JobRecord, now: float) -> tuple[float, ...]:
        """The sort key of a record that enters the queue at `now`; the least is dispatched first."""


class InOrder:
    """Jobs that lost their worker go first, then the others as they came. Implements `QueuePolicy`."""

    def key(self, record: JobRecord, now: float) -> tuple[float, ...]:
        """Attempts before the first ones, then by time of admission."""
        return float(record.requeued is None), record.created


IN_ORDER = InOrder()


class Entry(NamedTuple):
    """A waiting record; entries sort by key, then by arrival."""

    key: tuple[float, ...]
    arrival: int
    record: JobRecord


class JobQueue:
    """Waiting records, sorted. Used from one event loop.

    Adding or removing a record costs a binary search. The sums are kept beside the entries and made anew only when the
    estimator has learnt something.
    """

    def __init__(self, estimator: Estimator, policy: QueuePolicy = IN_ORDER, clock: Clock = SYSTEM_CLOCK) -> None:
        self._estimator = estimator
        self._policy = policy
        self._clock = clock
        self._entries: list[Entry] = []
        self._by_record: dict[JobRecord, Entry] = {}
        self._arrivals = 0
        self._learnt = -1
        """The estimator's version that the sums were made with."""
        self._expected = self._whole = 0.0
        self._unknown = 0
        """Jobs of whose bucket nothing was measured."""
        self.filled = asyncio.Event()
        """Set by every `add`; those who wait for a job clear it before they look."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, record: JobRecord) -> bool:
        return record in self._by_record

    def __iter__(self) -> Iterator[JobRecord]:
        return (entry.record for entry in self._entries)

    def add(self, record: JobRecord) -> bool:
        """Take a record in; returns whether it is the last in order."""
        self._arrivals += 1
        entry = Entry(self._policy.key(record, self._clock.now()), self._arrivals, record)
        self._refresh()
        insort(self._entries, entry)
        self._by_record[record] = entry
        self._count(record, 1)
        self.filled.set()
        return self._entries[-1] is entry

    def remove(self, record: JobRecord) -> None:
        """Take a record out.

        Raises:
            KeyError: it is not in the queue.
        """
        self._refresh()
        entry = self._by_record.pop(record)
        del self._entries[bisect_left(self._entries, entry)]
        self._count(record, -1)

    def pop(self) -> JobRecord:
        """Take the best record out.

        Raises:
            IndexError: the queue is empty.
        """
        record = self._entries[0].record
        self.remove(record)
        return record

    @property
    def expected_seconds(self) -> float:
        """Work in the queue; a job of which nothing was ever measured counts as nothing."""
        self._refresh()
        return self._expected

    @property
    def whole_seconds(self) -> float | None:
        """Work in the queue; None where nothing was measured of one of the jobs."""
        self._refresh()
        return None if self._unknown else self._whole

    def _refresh(self) -> None:
        if self._learnt != self._estimator.version:
            self._learnt = self._estimator.version
            self._reset()
            for entry in self._entries:
                self._count(entry.record, 1)

    def _count(self, record: JobRecord, sign: int) -> None:
        if not self._entries:  # differences of sums leave a rest
            return self._reset()
        whole = self._estimator.whole(record.job)
        self._expected += sign * self._estimator.expected(record.job)
        self._whole += sign * (whole or 0.0)
        self._unknown += sign * (whole is None)
        return None

    def _reset(self) -> None:
        self._expected, self._whole, self._unknown = 0.0, 0.0, 0
