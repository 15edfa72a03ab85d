"""The interface of job stores."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from easyanim_server.domain.record import JobRecord


class JobStore(Protocol):
    """Keeps the records of jobs. Progress and the bytes of results do not go through it."""

    async def add(self, record: JobRecord) -> None:
        """Keep a new record; when this returns, the job may be promised to its caller."""

    async def save(self, record: JobRecord) -> None:
        """Keep a record's new state; of no effect for one that was removed."""

    async def remove(self, record: JobRecord) -> None:
        """Forget a record; of no effect where there is none."""

    def get(self, job_id: str) -> JobRecord | None:
        """The record of a job, from memory; None where there is none."""

    @property
    def records(self) -> Collection[JobRecord]:
        """The records of all jobs of this front, as they are at each moment, oldest first."""
