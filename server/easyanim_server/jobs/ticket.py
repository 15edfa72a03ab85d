"""A job's place in the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from easyanim_server.domain.job import Job
from easyanim_server.jobs.spool import Spool


@dataclass(eq=False)
class Ticket:
    """A job's place in the scheduler."""

    job: Job
    spool: Spool
    admitted: float
    """When it was admitted, on the monotonic clock."""
    caller: str = ""
    """Whose it is, see `quotas.caller_of`."""
    attempt: int = 1
    """The run that it waits for or is in."""
    requeued: float | None = None
    """When it last lost its worker, on the same clock."""
