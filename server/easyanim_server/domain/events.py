"""What a caller hears of a job, from its place in the queue to the end of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from easyanim_server.domain.job import Job
from easyanim_server.domain.model import BucketStatus, Lookups, ModelInfo

CHUNK_BYTES = 256 * 1024
"""Largest part of a file in one event."""


class Phase(Enum):
    """What a worker is doing; values are the contract's enum names less their prefix."""

    TEXT_ENCODE = "TEXT_ENCODE"
    IMAGE_ENCODE = "IMAGE_ENCODE"
    DENOISE = "DENOISE"
    DECODE = "DECODE"


@dataclass(frozen=True, slots=True)
class PromptWarning:
    """Something that the model is likely to misread."""

    rule: str
    message: str
    """One sentence: what is wrong, and what to write instead."""
    excerpt: str = ""
    """The part of the prompt that is meant; empty where it is all of it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job has a place in the queue."""

    job: Job
    prompt_tokens: int
    prompt_truncated: bool
    warnings: tuple[PromptWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits; `ahead` counts waiting and running jobs, `eta` is in seconds."""

    ahead: int
    eta: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """A phase advanced. Times in seconds."""

    phase: Phase
    completed: int
    total: int
    unit_seconds: float | None
    elapsed: float
    eta: float | None
    reused_steps: int = 0
    """Denoising steps so far that reused a prediction."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the steps of a generation took so far."""

    predictions: int = 0
    """Passes through the transformer's blocks; those of two prompts at once count as two."""
    reused_steps: int = 0
    """Steps that reused what the blocks did in an earlier one."""
    cache_coefficients: tuple[float, ...] = ()
    """Of the polynomial that reuse was decided with, highest power first; empty where it was off."""
    running_steps: int = 0
    """Steps that were taken and still run: a device is told the next one before it has done the last."""


NO_WORK = Work()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the file, at most `CHUNK_BYTES`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Encoding:
    """The video encoder's share of `Phase.DECODE`, in seconds."""

    began: float = 0.0
    """When it got its first frames, since the start of work."""
    busy: float = 0.0
    """How long it worked."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The file is complete."""

    size: int
    sha256: bytes
    seconds: dict[Phase, float]
    """Seconds of each phase, measured in the worker."""
    total_seconds: float
    peak_device_bytes: int
    model: ModelInfo
    readiness: BucketStatus
    queue_seconds: float = 0.0
    latents_sha256: str = ""
    """See `Engine.fingerprint`."""
    encoding: Encoding = Encoding()
    work: Work = NO_WORK
    lookups: Lookups = field(default_factory=Lookups)


@dataclass(frozen=True, slots=True)
class Restarted:
    """The job begins anew, bytes included, since its worker was lost."""

    attempt: int
    """The run that begins now: 2 after the first loss."""
    reason: str
    """Of the error that ended the run before, see `EasyAnimError.reason`."""
    detail: str
    """What that error says."""


Event = Accepted | Queued | Progress | Chunk | Restarted | Completed
