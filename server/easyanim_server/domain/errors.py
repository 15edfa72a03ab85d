"""Every failure by name, in pure Python; `rpc.status` gives each one its gRPC code.

EasyAnimError
├── InvalidArgument      a request's fields are wrong; nothing was started
├── QueueFull            all places in the queue are taken
├── DiskFull             the disk has no room for another file
├── ResultDropped        a finished file was not read, and its space was needed
├── ResultExpired        a finished file was not read for too long
├── NotReady             the model is still being loaded
├── ShuttingDown         the server drains
├── WorkerLost           the process that held the GPU died under the job, as often as it is run
├── JobCancelled         the caller gave up
├── OutOfDeviceMemory    the device cannot hold this generation
├── GenerationFailed     anything else that broke inside a generation
├── UnsupportedModel     a checkpoint that this server cannot run (at start)
└── ConfigurationError   settings that contradict each other or the machine (at start; a missing codec, with its job)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class EasyAnimError(Exception):
    """Base of all failures that the server names."""

    reason: ClassVar[str] = "UNKNOWN"
    """UPPER_SNAKE_CASE name that callers may branch on; part of the contract."""

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

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(f"{limit} jobs are waiting already, which is this server's limit")
        self.retry_after = retry_after
        """Seconds after which a place is expected to be free."""


class DiskFull(EasyAnimError):
    """The disk has no room for another file; the caller may retry."""

    reason = "DISK_FULL"
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
    retry_after = 2.0

    def __init__(self, detail: str) -> None:
        super().__init__(f"the server is not ready yet: {detail}")


class ShuttingDown(EasyAnimError):
    """The server drains and takes no new work."""

    reason = "SHUTTING_DOWN"
    retry_after = 5.0

    def __init__(self) -> None:
        super().__init__("the server is shutting down and takes no new requests")


class WorkerLost(EasyAnimError):
    """The worker process died while it worked on the job."""

    reason = "WORKER_LOST"
    retry_after = 1.0


class JobCancelled(EasyAnimError):
    """The caller gave up; raised inside the worker to leave the engine."""

    reason = "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the job was cancelled")


class OutOfDeviceMemory(EasyAnimError):
    """The device's memory does not hold this generation."""

    reason = "OUT_OF_DEVICE_MEMORY"


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
