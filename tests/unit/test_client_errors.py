"""The client's failures as objects: what they keep, and how odd statuses are read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import easyanim_client as ea
from easyanim_client.errors import Details, from_rpc_error
from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.rpc.status import CODES

DETAILS_KEY = "grpc-status-details-bin"


class Failed(grpc.RpcError):
    """A gRPC error with the three methods that a real one has."""

    def __init__(self, code: grpc.StatusCode, message: str | None, details: bytes | None = None) -> None:
        self._answers = code, message, ((DETAILS_KEY, details),) if details is not None else ()

    def code(self) -> Any:
        return self._answers[0]

    def details(self) -> Any:
        return self._answers[1]

    def trailing_metadata(self) -> Any:
        return self._answers[2]


@pytest.mark.parametrize(
    "details",
    [
        pytest.param(status_pb2.Status(code=code_pb2.INTERNAL).SerializeToString(), id="of-another-code"),
        pytest.param(b"\xff\xff", id="not-a-status"),
    ],
)
def test_details_that_do_not_belong_to_the_status_are_ignored(details: bytes) -> None:
    error = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, "a proxy gave up", details))

    assert type(error) is ea.Unavailable
    assert (str(error), error.reason, error.retry_after) == ("a proxy gave up", "", None)


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "the timeout passed before the answer was complete"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Stream removed (Deadline Exceeded)", "the timeout passed before"),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", "the connection to the server was lost"),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", "the call was cancelled"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "the proxy waited for 60 s", "the proxy waited for 60 s"),
    ],
)
def test_ends_that_no_server_names_are_told_in_words_of_our_own(code: grpc.StatusCode, said: str, told: str) -> None:
    assert str(from_rpc_error(Failed(code, said))).startswith(told)


def test_a_failure_without_words_is_named_after_its_code() -> None:
    assert str(from_rpc_error(Failed(grpc.StatusCode.DATA_LOSS, None))) == "DATA_LOSS"


@pytest.mark.parametrize(
    "error",
    [
        ea.MessageTooLarge(11, 10),
        ea.InvalidRequest("wrong", Details(violations=(ea.Violation("seed", "is negative"),))),
        ea.QueueFull("full", Details(reason="QUEUE_FULL", retry_after=1.5)),
        ea.ServerFailed("broken", Details(error_id="e-1")),
        ea.CorruptVideo("a gap"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_survive_the_way_to_another_process(error: ea.EasyAnimError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


RETRIED = {
    "QUEUE_FULL", "PICTURES_BUSY", "INTAKE_FULL", "DISK_FULL", "NOT_READY", "SHUTTING_DOWN", "WORKER_LOST",
}  # fmt: skip


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.reason)
def test_every_reason_of_the_server_is_told_as_one_to_try_again_or_not(kind: type[EasyAnimError]) -> None:
    code = next(item for item in grpc.StatusCode if item.value[0] == CODES[kind])
    status = status_pb2.Status(code=CODES[kind], message="so")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=kind.reason, domain="easyanim"))

    error = from_rpc_error(Failed(code, "so", status.SerializeToString()))

    assert error.reason == kind.reason
    assert isinstance(error, ea.RetryLater) == (kind.reason in RETRIED)
    assert isinstance(error, ea.ResultLost) == (kind.reason in ("RESULT_QUOTA", "RESULT_EXPIRED"))


def test_every_reason_of_calls_that_can_be_tried_again_is_in_the_readme_and_the_contract() -> None:
    root = Path(__file__).resolve().parents[2]
    named = {"QUEUE_FULL", "PICTURES_BUSY", "INTAKE_FULL", "DISK_FULL", "RESULT_QUOTA", "RESULT_EXPIRED"}
    named |= {"OUT_OF_DEVICE_MEMORY", "NON_FINITE"}
    for page in ("README.md", "proto/easyanim/v1/video.proto", "docs/api.md"):
        text = (root / page).read_text()
        assert {reason for reason in named if reason not in text} == set(), page


def test_every_failure_can_be_caught_as_an_easyanim_error() -> None:
    kinds = [value for value in vars(ea).values() if isinstance(value, type) and issubclass(value, Exception)]

    assert [kind for kind in kinds if not issubclass(kind, ea.EasyAnimError)] == []
