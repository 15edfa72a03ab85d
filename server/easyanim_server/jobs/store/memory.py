"""A job store that lasts as long as its process."""

from __future__ import annotations

from collections.abc import Collection

from easyanim_server.domain.record import JobRecord


class MemoryStore:
    """Keeps records in a dictionary. Implements `JobStore`; its methods never suspend."""

    def __init__(self) -> None:
        self._records: dict[str, JobRecord] = {}

    async def add(self, record: JobRecord) -> None:
        """Keep a new record.

        Raises:
            ValueError: there is a record with this id.
        """
        if record.job.id in self._records:
            raise ValueError(f"job {record.job.id} is in the store already")
        self._records[record.job.id] = record

    async def save(self, record: JobRecord) -> None:
        """Do nothing: the object that was added is the record."""

    async def remove(self, record: JobRecord) -> None:
        """Forget a record."""
        self._records.pop(record.job.id, None)

    def get(self, job_id: str) -> JobRecord | None:
        """The record of a job."""
        return self._records.get(job_id)

    @property
    def records(self) -> Collection[JobRecord]:
        """All records, oldest first."""
        return self._records.values()
