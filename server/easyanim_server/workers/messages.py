"""The messages between the front and a worker process. Plain data, pickled over one pipe."""

from __future__ import annotations

from dataclasses import dataclass

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo


@dataclass(frozen=True, slots=True)
class Run:
    """To the worker: do this job. One at a time; the front waits for its `Ended`."""

    job: Job
    context: CallContext = NO_CALL


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: leave this job at the next step. Of no effect once it has ended."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """To the worker: end at once, whatever you are doing. A closed pipe means the same."""


@dataclass(frozen=True, slots=True)
class Starting:
    """From the worker: what it is doing on its way to `Ready`, in one sentence."""

    detail: str


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: the model is loaded and every bucket is warm."""

    served: WorkerInfo


@dataclass(frozen=True, slots=True)
class StartFailed:
    """From the worker: it will never be ready with these settings; its last message."""

    error: EasyAnimError


@dataclass(frozen=True, slots=True)
class Said:
    """From the worker: a job went on."""

    job_id: str
    event: Progress | Chunk | Completed


@dataclass(frozen=True, slots=True)
class Ended:
    """From the worker: it holds nothing of this job any more and takes the next one."""

    job_id: str
    error: EasyAnimError | None
    """Why there is no video; None after `Completed`."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """From the worker: it waits for a job, and its loop goes round."""


ToWorker = Run | Cancel | Stop
FromWorker = Starting | Ready | StartFailed | Said | Ended | Waiting
