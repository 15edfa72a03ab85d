"""What the front tells telemetry: a few named moments in the life of calls, jobs and workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from easyanim_server.domain.call import CallContext
from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo

log = structlog.get_logger(__name__)


class JobObserver:
    """Notices nothing; observers override the moments that they care about.

    Every moment is told from the event loop, so none of them may wait.
    """

    def answered(self, method: str, code: str, seconds: float) -> None:
        """A call of `method`, such as ``Generate``, ended with a gRPC code by name, such as ``OK``."""

    def refused(self, error: EasyAnimError) -> None:
        """A request ended before it had a place in the queue."""

    def queued(self, job: Job, context: CallContext) -> None:
        """A job has a place in the queue; `context` is of the call that it came in."""

    def started(self, job: Job, waited: float) -> None:
        """A job left the queue, after so many seconds, for a worker; told again where it was restarted."""

    def said(self, job: Job, event: Progress | Chunk | Completed) -> None:
        """The worker has news of a job; a `Completed` has its `queue_seconds`."""

    def restarted(self, job: Job, failure: EasyAnimError) -> None:
        """What was done of a job is lost, and it is at the queue's head for another run."""

    def cancelling(self, job: Job) -> None:
        """The worker was told to leave a job; `ended` comes when it is free."""

    def ended(self, job: Job, failure: EasyAnimError | None) -> None:
        """A job is over and nothing works on it any more; told once for every job that was `queued`."""

    def dropped(self, error: EasyAnimError) -> None:
        """The bytes of a job's file were given up, since its caller did not read them."""

    def sent(self, size: int) -> None:
        """So many bytes of a video went to its caller."""

    def worker_ready(self, served: WorkerInfo) -> None:
        """A worker process is up and warm."""

    def worker_lost(self, stuck: bool) -> None:
        """A worker process died under a job or while it waited for one, or was `stuck` and killed."""


class JobObservers(JobObserver):
    """Several observers as one. A fault of an observer is logged and costs nobody a video."""

    def __init__(self, *observers: JobObserver) -> None:
        for name, base in vars(JobObserver).items():
            if not name.startswith("_"):
                interested = [getattr(item, name) for item in observers if getattr(type(item), name) is not base]
                setattr(self, name, _each(interested))


def _each(listeners: list[Callable[..., None]]) -> Callable[..., None]:
    def tell(*facts: Any) -> None:
        for listener in listeners:
            try:
                listener(*facts)
            except Exception as error:
                log.exception("telemetry failed", listener=listener.__qualname__, error=repr(error))

    return tell
