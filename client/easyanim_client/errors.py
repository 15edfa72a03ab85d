"""Every failure that a caller may meet, and the one place where gRPC's become ours.

EasyAnimError
├── InvalidRequest         fields of the request are wrong; nothing was started
│   └── MessageTooLarge    the request is larger than the server takes
├── RetryLater             the same request may succeed later
│   ├── QueueFull          all places in the server's queue are taken
│   └── Unavailable        the server cannot be reached, starts, drains, or lost its worker
├── ResultLost             the video was made, and given up since it was not read
├── DeadlineExceeded       the timeout passed before the video was complete
├── Cancelled              the call was cancelled, here or on the server
├── UnusableClient         the client cannot work here: after a fork, in another event loop, under gevent
├── ServerFailed           something broke inside the server
│   └── OutOfDeviceMemory  the server's device cannot hold this generation
└── CorruptVideo           what arrived is not the file that the server announced
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from easyanim_client.wording import counted

ERROR_DOMAIN = "easyanim"
"""`ErrorInfo.domain` of the failures that the server names itself."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Name of the field as the contract spells it."""
    description: str
    """The value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Details:
    """What a failure says beyond its message."""

    reason: str = ""
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    error_id: str = ""


class EasyAnimError(Exception):
    """Base of all failures; where one came over gRPC, `__cause__` is the `grpc.RpcError`."""

    def __init__(self, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        self._details = details or Details()
        self.request_id = ""
        """Finds the call in the server's log; empty where the failure is of no call."""

    @property
    def reason(self) -> str:
        """The server's UPPER_SNAKE_CASE name of the failure; empty where the server did not name one."""
        return self._details.reason


class InvalidRequest(EasyAnimError):
    """Fields of the request are wrong; sending it again cannot help."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Every wrong field that was found; empty where the failure is of no single field."""
        return self._details.violations

    @classmethod
    def of_field(cls, field: str, description: str) -> InvalidRequest:
        """The failure of one field."""
        return cls.of_fields([Violation(field, description)])

    @classmethod
    def of_fields(cls, violations: Sequence[Violation]) -> InvalidRequest:
        """The failure of several fields at once."""
        message = "; ".join(f"{item.field}: {item.description}" for item in violations)
        return cls(message, Details(violations=tuple(violations)))


class MessageTooLarge(InvalidRequest):
    """The request is larger than the server takes; its `reason` is always ``MESSAGE_TOO_LARGE``."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the request has {counted(size, 'byte')} and the server takes {limit}; "
            "shrink the picture, or save it as JPEG or WebP, before sending it",
            Details(reason="MESSAGE_TOO_LARGE"),
        )
        self.size = size
        """Bytes of the request."""
        self.limit = limit
        """Bytes that the server takes."""

    def __reduce__(self) -> tuple[type[MessageTooLarge], tuple[int, int], dict[str, object]]:
        return type(self), (self.size, self.limit), vars(self)


class RetryLater(EasyAnimError):
    """The server cannot take the request now; the same request may succeed later."""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next try; None where the server gave no number."""
        return self._details.retry_after


class QueueFull(RetryLater):
    """All places in the server's queue are taken."""


class Unavailable(RetryLater):
    """The server cannot be reached, still loads its model, is shutting down, or lost the worker that had the job."""


class ResultLost(EasyAnimError):
    """The video was made and the server gave up its bytes: they were not read, or are more than it keeps of a caller.

    The same request would do all the work again and lose it again, unless results are read as they come.
    """


class DeadlineExceeded(EasyAnimError):
    """The timeout passed before the video was complete."""


class Cancelled(EasyAnimError):
    """The call was cancelled by `cancel`, by closing the client, or on the server."""


class UnusableClient(EasyAnimError):
    """The client cannot work here, after a fork, in another event loop or under gevent; the message says what to do."""


class ServerFailed(EasyAnimError):
    """Something broke inside the server, or the server does not speak this contract."""

    @property
    def error_id(self) -> str:
        """Finds the whole error in the server's log; empty where the server gave none."""
        return self._details.error_id


class OutOfDeviceMemory(ServerFailed):
    """The server's device cannot hold this generation; a smaller bucket or fewer frames may fit."""


class CorruptVideo(EasyAnimError):
    """What arrived is not the file that the server announced: a gap, another size or another SHA-256."""


_BY_REASON: dict[str, type[EasyAnimError]] = {
    "QUEUE_FULL": QueueFull,
    "PICTURES_BUSY": RetryLater,
    "INTAKE_FULL": RetryLater,
    "DISK_FULL": RetryLater,
    "RESULT_QUOTA": ResultLost,
    "RESULT_EXPIRED": ResultLost,
    "OUT_OF_DEVICE_MEMORY": OutOfDeviceMemory,
    "NON_FINITE": ServerFailed,
}
_BY_CODE: dict[grpc.StatusCode, type[EasyAnimError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RetryLater,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}
# gRPC itself refuses a large message before the server's code sees it, so this text is all there is to go by.
_REFUSED_AS_TOO_LARGE = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")


def told(error: Exception) -> str:
    """What an error says to people: of the file system's the file and what is wrong with it, without a number."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


NO_TLS = "the server answered without TLS"
WANTS_TLS = "the connection was closed before the server said anything"
"""Also of a tunnel to where nobody listens."""
UNTRUSTED = "the server's certificate is not trusted"

_WORDS_OF_GRPC = (
    ("WRONG_VERSION_NUMBER", NO_TLS),
    ("CERTIFICATE_VERIFY_FAILED", UNTRUSTED),
    ("failed to connect to all addresses.*Socket closed", WANTS_TLS),
    ("Deadline Exceeded", "the timeout passed before the answer was complete"),
    ("Socket closed", "the connection to the server was lost"),
    ("Locally cancelled by application!", "the call was cancelled"),
)
"""Patterns of what gRPC says of ends that no server names, and what people are told."""


def code_of(error: EasyAnimError | OSError) -> str:
    """A failure's name for programs: that of gRPC's status, or the system's of a file that is wrong, as ``ENOENT``."""
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, "EIO")
    cause = error.__cause__
    if isinstance(error, InvalidRequest):  # a message that is too large has another status where gRPC refused it
        return grpc.StatusCode.INVALID_ARGUMENT.name
    if isinstance(error, CorruptVideo):
        return grpc.StatusCode.DATA_LOSS.name
    if isinstance(cause, grpc.RpcError):
        return str(cause.code().name)
    # From the end, since RetryLater is the base of Unavailable.
    known = (code.name for code, kind in reversed(_BY_CODE.items()) if isinstance(error, kind))
    return next(known, grpc.StatusCode.UNKNOWN.name)


@contextmanager
def translated(request_id: str = "") -> Iterator[None]:
    """Turn gRPC's errors into `EasyAnimError`; the only place that does.

    Args:
        request_id: Of the call; every failure within gets it.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _named(from_rpc_error(error), request_id) from error
    except EasyAnimError as error:
        _named(error, request_id)
        raise


def _named(error: EasyAnimError, request_id: str) -> EasyAnimError:
    error.request_id = error.request_id or request_id
    return error


def from_rpc_error(error: grpc.RpcError) -> EasyAnimError:
    """The failure behind a gRPC error: by the server's reason where it gave one, else by the status code.

    Args:
        error: As raised by a sync or an asyncio call, which both carry the status.
    """
    code, message = error.code(), error.details() or ""
    too_large = _REFUSED_AS_TOO_LARGE.search(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "CLIENT: Received" in message:
        return ServerFailed(f"the server sent more than this client takes ({message})")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        size, limit = too_large.groups()
        return MessageTooLarge(int(size), int(limit))
    message = next((words for said, words in _WORDS_OF_GRPC if re.search(said, message)), message)
    details = _details(error)
    kind = _BY_REASON.get(details.reason) or _BY_CODE.get(code, ServerFailed)
    return kind(message or code.name, details)


def _details(error: grpc.RpcError) -> Details:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # both kinds have the methods that it reads
    except (ValueError, DecodeError):
        status = None  # a proxy rewrote the status and left the details of the old one
    bad_request = error_details_pb2.BadRequest()
    retry_info = error_details_pb2.RetryInfo()
    error_info = error_details_pb2.ErrorInfo()
    retry_after = None
    for detail in status.details if status else ():
        detail.Unpack(bad_request)
        detail.Unpack(error_info)
        if detail.Unpack(retry_info):
            retry_after = retry_info.retry_delay.ToNanoseconds() / 1e9
    ours = error_info.domain == ERROR_DOMAIN
    return Details(
        reason=error_info.reason if ours else "",
        violations=tuple(Violation(item.field, item.description) for item in bad_request.field_violations),
        retry_after=retry_after,
        error_id=error_info.metadata["error_id"] if ours and "error_id" in error_info.metadata else "",
    )
