"""The waiting jobs in the order of a policy, and what they are expected to take."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.eta import Estimator

BLOCK = 32
"""Entries after which a block is split in two: about the root of a long queue's length."""


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


class Place(NamedTuple):
    """Where a record stands in the queue."""

    number: int
    """Records before it."""
    seconds_before: float | None
    """What these take in all; None where nothing was measured of one of them."""


class Sums:
    """What some jobs take."""

    def __init__(self) -> None:
        self.expected = self.whole = 0.0
        self.unknown = 0
        """Jobs of whose bucket nothing was measured."""

    def add(self, record: JobRecord, estimator: Estimator) -> None:
        """Count one more."""
        whole = estimator.whole(record.job)
        self.expected += estimator.expected(record.job)
        self.whole += whole or 0.0
        self.unknown += whole is None


class Block:
    """Neighbours in the queue, and what they take: made anew with every change, so that no differences add up."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.sums = Sums()

    def count(self, estimator: Estimator) -> None:
        """Make the sums anew."""
        self.sums = Sums()
        for entry in self.entries:
            self.sums.add(entry.record, estimator)


class JobQueue:
    """Waiting records, sorted, in blocks. Used from one event loop.

    Adding, removing and finding a record, and all sums, look at one block and at the sums of the others: at about the
    root of the queue's length. Only when the estimator has learnt something, all sums are made anew.
    """

    def __init__(self, estimator: Estimator, policy: QueuePolicy = IN_ORDER, clock: Clock = SYSTEM_CLOCK) -> None:
        self._estimator = estimator
        self._policy = policy
        self._clock = clock
        self._blocks: list[Block] = []
        self._by_record: dict[JobRecord, Entry] = {}
        self._arrivals = 0
        self._learnt = estimator.version
        """The estimator's version that the sums were made with."""
        self.filled = asyncio.Event()
        """Set by every `add`; those who wait for a job clear it before they look."""

    def __len__(self) -> int:
        return len(self._by_record)

    def __contains__(self, record: JobRecord) -> bool:
        return record in self._by_record

    def __iter__(self) -> Iterator[JobRecord]:
        return (entry.record for block in self._blocks for entry in block.entries)

    def add(self, record: JobRecord) -> Place:
        """Take a record in; returns where it stands."""
        self._arrivals += 1
        entry = Entry(self._policy.key(record, self._clock.now()), self._arrivals, record)
        self._refresh()
        number = min(self._block_of(entry), max(0, len(self._blocks) - 1))
        if not self._blocks:
            self._blocks.append(Block([]))
        block = self._blocks[number]
        insort(block.entries, entry)
        if len(block.entries) > BLOCK:
            half = Block(block.entries[BLOCK // 2 :])
            del block.entries[BLOCK // 2 :]
            half.count(self._estimator)
            self._blocks.insert(number + 1, half)
        block.count(self._estimator)
        self._by_record[record] = entry
        self.filled.set()
        return self.place(record)

    def remove(self, record: JobRecord) -> None:
        """Take a record out.

        Raises:
            KeyError: it is not in the queue.
        """
        entry = self._by_record.pop(record)
        self._refresh()
        number = self._block_of(entry)
        block = self._blocks[number]
        del block.entries[bisect_left(block.entries, entry)]
        block.count(self._estimator)
        if not block.entries:
            del self._blocks[number]

    def pop(self) -> JobRecord:
        """Take the best record out.

        Raises:
            IndexError: the queue is empty.
        """
        record = self._blocks[0].entries[0].record
        self.remove(record)
        return record

    def place(self, record: JobRecord) -> Place:
        """Where a record stands.

        Raises:
            KeyError: it is not in the queue.
        """
        entry = self._by_record[record]
        self._refresh()
        own = self._block_of(entry)
        before, block = self._blocks[:own], self._blocks[own].entries
        index = bisect_left(block, entry)
        neighbours = Sums()
        for other in block[:index]:
            neighbours.add(other.record, self._estimator)
        sums = [*(other.sums for other in before), neighbours]
        known = not any(item.unknown for item in sums)
        return Place(
            sum(len(other.entries) for other in before) + index, sum(item.whole for item in sums) if known else None
        )

    @property
    def expected_seconds(self) -> float:
        """Work in the queue; a job of which nothing was ever measured counts as nothing."""
        self._refresh()
        return sum(block.sums.expected for block in self._blocks)

    def _block_of(self, entry: Entry) -> int:
        """The number of the first block that does not end before the entry."""
        return bisect_left(self._blocks, entry, key=lambda block: block.entries[-1])

    def _refresh(self) -> None:
        if self._learnt != self._estimator.version:
            self._learnt = self._estimator.version
            for block in self._blocks:
                block.count(self._estimator)
