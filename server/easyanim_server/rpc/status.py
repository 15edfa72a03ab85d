"""The one table from failures to gRPC codes, and their google.rpc details."""

from __future__ import annotations

import random
from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from easyanim_server.domain import errors
from easyanim_server.domain.errors import EasyAnimError, Violation

DOMAIN = "easyanim"

MAX_MESSAGE_BYTES = 1000
"""In UTF-8. With `MAX_VIOLATIONS_BYTES` it keeps a status under the 8 KB that HTTP/2 peers accept as trailers, also
where no character is ASCII: such a message takes three times its bytes there."""
MAX_VIOLATIONS_BYTES = 2000
"""Of all of them together, which are no more than the contract has fields."""

LATER = 1.25
"""Of `retry_after`, until when callers come again where the error does not say it."""

CODES: dict[type[EasyAnimError], int] = {
    errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    errors.QueueFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.PicturesBusy: code_pb2.RESOURCE_EXHAUSTED,
    errors.IntakeFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.OutOfDeviceMemory: code_pb2.RESOURCE_EXHAUSTED,
    errors.DiskFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.ResultDropped: code_pb2.RESOURCE_EXHAUSTED,
    errors.ResultExpired: code_pb2.ABORTED,
    errors.NotReady: code_pb2.UNAVAILABLE,
    errors.ShuttingDown: code_pb2.UNAVAILABLE,
    errors.WorkerLost: code_pb2.UNAVAILABLE,
    errors.JobCancelled: code_pb2.CANCELLED,
    errors.NonFinite: code_pb2.INTERNAL,
    errors.GenerationFailed: code_pb2.INTERNAL,
    errors.UnsupportedModel: code_pb2.FAILED_PRECONDITION,
    errors.ConfigurationError: code_pb2.FAILED_PRECONDITION,
}


def to_status(error: EasyAnimError) -> grpc.Status:
    """The status that ends a call with `error`, for `context.abort_with_status`."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    details = [info]
    if isinstance(error, errors.InvalidArgument):
        details.append(_bad_request(error.violations))
    if isinstance(error, errors.GenerationFailed):
        info.metadata["error_id"] = error.error_id
    if error.retry_after is not None:
        until = LATER * error.retry_after if error.retry_until is None else error.retry_until
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * random.uniform(error.retry_after, until)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=CODES[type(error)], message=_short(str(error), MAX_MESSAGE_BYTES))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """All violations; what short descriptions leave of their shares of the bytes is for the longer ones."""
    left, shown = MAX_VIOLATIONS_BYTES - sum(len(item.field) for item in violations), {}
    for done, item in enumerate(sorted(violations, key=lambda item: len(item.description.encode()))):
        shown[item] = _short(item.description, left // (len(violations) - done))
        left -= len(shown[item].encode())
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[violation(field=item.field, description=shown[item]) for item in violations]
    )


def _short(text: str, most: int) -> str:
    data = text.encode()
    return text if len(data) <= most else data[: most - len("…".encode())].decode(errors="ignore") + "…"
