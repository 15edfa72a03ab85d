"""Every failure by name, in pure Python; `rpc.status` gives each one its gRPC code.

EasyAnimError
├── InvalidArgument      a request's fields are wrong; nothing was started
├── QueueFull            all places in the queue are taken
├── PicturesBusy         no decoder of pictures is free in time
├── IntakeFull           requests that are no jobs yet take all the memory that they may
├── DiskFull             the disk has no room for another file
├── ResultDropped        a finished file was not read, and its space was needed
├── ResultExpired        a finished file was not read for too long
├── NotReady             the model is still being loaded
├── ShuttingDown         the server drains
├── WorkerLost           the process that held the GPU died under the job, as often as it is run
├── JobCancelled         the caller gave up
├── OutOfDeviceMemory    the device cannot hold this generation
├── NonFinite            the model computed NaN or infinity instead of a video
├── GenerationFailed     anything else that broke inside a generation
├── UnsupportedModel     a checkpoint that this server cannot run (at start)
└── ConfigurationError   settings that contradict each other or the machine (at start; a missing codec, with its job)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from easyanim_server.domain.wording import counted


class EasyAnimError(Exception):
    """Base of all failures that the server names."""

    reason: ClassVar[str] = "UNKNOWN"
    """UPPER_SNAKE_CASE name that callers may branch on; part of the contract."""
    retry_after: float | None = None
    """Seconds after which trying again may help; None where it does not, as where a device is too small for a job."""
    retry_until: float | None = None
    """Seconds after which all have come again: callers are told times in between, since all at once would be refused
    once more. None means a quarter more than `retry_after`."""

    heals: ClassVar[bool] = False
    """Whether another try may succeed where nobody has changed anything."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross the worker's pipe; the default would call __init__ with the finished message.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[EasyAnimError], args: tuple[Any, ...], state: dict[str, Any]) -> EasyAnimError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Name of the field as the contract spells it."""
    description: str
    """The value and what is allowed, in one sentence."""


class InvalidArgument(EasyAnimError):
    """A request's fields are wrong; lists every one that was found."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{item.field}: {item.description}" for item in violations))
        self.violations = tuple(violations)


class QueueFull(EasyAnimError):
    """All places in the queue are taken; the caller may retry."""

    reason = "QUEUE_FULL"
    heals = True

    def __init__(self, limit: int, retry_after: float, retry_until: float | None = None) -> None:
        super().__init__(f"no place is free in the queue, which takes {counted(limit, 'job')}")
        self.retry_after = retry_after
        self.retry_until = retry_until


class PicturesBusy(EasyAnimError):
    """All decoders of pictures are at work for others; the caller may retry."""

    reason = "PICTURES_BUSY"
    heals = True
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("this server decodes as many pictures as it can already")


class IntakeFull(EasyAnimError):
    """Requests that are no jobs yet take all the memory that they may; the caller may retry."""

    reason = "INTAKE_FULL"
    heals = True
    retry_after = 1.0
    retry_until = 4.0


class DiskFull(EasyAnimError):
    """The disk has no room for another file; the caller may retry."""

    reason = "DISK_FULL"
    heals = True
    retry_after = 10.0


class ResultDropped(EasyAnimError):
    """The bytes of a file were dropped: its caller did not read them, and their space was needed."""

    reason = "RESULT_QUOTA"


class ResultExpired(EasyAnimError):
    """The bytes of a file were dropped: its caller did not read them for too long."""

    reason = "RESULT_EXPIRED"


class NotReady(EasyAnimError):
    """The model is being loaded for the first time."""

    reason = "NOT_READY"
    heals = True

    def __init__(self, detail: str, loading_seconds: float = 0.0) -> None:
        super().__init__(f"the server is not ready yet: {detail}")
        # Nobody knows how long it still takes; who asks again after a quarter of the time so far is late by no more.
        self.retry_after = min(max(2.0, loading_seconds / 4), 30.0)


class ShuttingDown(EasyAnimError):
    """The server drains and takes no new work."""

    reason = "SHUTTING_DOWN"
    heals = True
    retry_after = 5.0
    retry_until = 10.0

    def __init__(self) -> None:
        super().__init__("the server is shutting down and takes no new requests")


class WorkerLost(EasyAnimError):
    """The worker process died while it worked on the job."""

    reason = "WORKER_LOST"
    heals = True
    retry_after = 1.0
    retry_until = 3.0


class JobCancelled(EasyAnimError):
    """The caller gave up; raised inside the worker to leave the engine."""

    reason = "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the job was cancelled")


class OutOfDeviceMemory(EasyAnimError):
    """The device's memory does not hold this generation."""

    reason = "OUT_OF_DEVICE_MEMORY"


class NonFinite(EasyAnimError):
    """The model computed NaN or infinity: its weights are damaged, or this request overflows their type."""

    reason = "NON_FINITE"


class GenerationFailed(EasyAnimError):
    """A generation broke; callers see the id, the log has the whole error."""

    reason = "GENERATION_FAILED"

    def __init__(self, error_id: str) -> None:
        super().__init__(f"the generation failed; the server's log has the details under error id {error_id}")
        self.error_id = error_id


class UnsupportedModel(EasyAnimError):
    """A checkpoint that this server cannot run, with what to use instead."""

    reason = "UNSUPPORTED_MODEL"


class ConfigurationError(EasyAnimError):
    """Settings that contradict each other or the machine."""

    reason = "CONFIGURATION"
