"""The record of a job: who asked for it, which state it is in, and when it came there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import EasyAnimError, JobCancelled
from easyanim_server.domain.events import Completed
from easyanim_server.domain.job import Job


class JobState(Enum):
    """The states of a job. The last three are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(eq=False)
class JobRecord:
    """One job and its state. Two records are equal only if they are the same object.

    All times are in seconds on the clock of the front, see `Clock`. A final state is the caller's view: a worker may
    still be busy with a cancelled job until it has left it.
    """

    job: Job
    created: float
    """When the job was admitted."""
    caller: str = ""
    """Whose quota its result counts against, see `quotas.caller_of`."""
    context: CallContext = NO_CALL
    """The call that it came in."""
    state: JobState = JobState.QUEUED
    attempt: int = 1
    """The run that the job waits for or is in."""
    requeued: float | None = None
    """When it last lost its worker."""
    started: float | None = None
    """When the present run began; None while the job waits."""
    ended: float | None = None
    """When it reached its final state."""
    events: int = 0
    """Positions and progress reports so far, over all runs; their numbers order what a reader has seen."""
    completed: Completed | None = None
    """The facts on the video of a job that succeeded."""
    failure: EasyAnimError | None = None
    """Why there is no video, or none any more."""

    @property
    def over(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL

    def start(self, now: float) -> None:
        """Enter RUNNING, unless the job is over."""
        self.started = now
        if not self.over:
            self.state = JobState.RUNNING

    def restart(self, now: float) -> None:
        """Enter QUEUED again for one more attempt, after the worker was lost."""
        self.state, self.started, self.requeued = JobState.QUEUED, None, now
        self.attempt += 1

    def succeed(self, completed: Completed, now: float) -> None:
        """Enter SUCCEEDED."""
        self.state, self.ended, self.completed = JobState.SUCCEEDED, now, completed

    def fail(self, error: EasyAnimError, now: float) -> bool:
        """Enter FAILED, or CANCELLED where `error` is `JobCancelled`; returns False where the job is over already."""
        if self.over:
            return False
        self.lose(error, now)
        return True

    def lose(self, error: EasyAnimError, now: float) -> None:
        """As `fail`, also for a job that succeeded: its result was given up before it was read."""
        self.state = JobState.CANCELLED if isinstance(error, JobCancelled) else JobState.FAILED
        self.ended, self.completed, self.failure = now, None, error
