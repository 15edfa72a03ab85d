"""A worker that no longer obeys is killed, over a real channel, with real worker processes and a simulated engine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import grpc
import pytest

from easyanim.v1 import video_pb2 as pb
from tests.conftest import Stub, request
from tests.engines import SIMULATED
from tests.rpc.calls import wait_until_idle
from tests.rpc.metered import Metered
from tests.servers import RunningServer, settings


@pytest.fixture(scope="module")
def impatient() -> Iterator[Metered]:
    """A server that gives its worker a second to leave a job."""
    configured = settings(metrics_listen="127.0.0.1:0", cancel_seconds="1")
    with RunningServer(configured, SIMULATED) as server, grpc.insecure_channel(server.address) as channel:
        yield Metered(server, Stub(channel))


@pytest.fixture(scope="module")
def watchful() -> Iterator[Metered]:
    """A server that listens to its worker for a second, or ten steps: 4 s, as the simulated engine measured them."""
    configured = settings(metrics_listen="127.0.0.1:0", stall_seconds="1", buckets="64x96x33")
    with RunningServer(configured, SIMULATED) as server, grpc.insecure_channel(server.address) as channel:
        yield Metered(server, Stub(channel))


@pytest.mark.parametrize(
    ("phase", "timeout", "code"),
    [("DENOISE", None, grpc.StatusCode.CANCELLED), ("DECODE", 8, grpc.StatusCode.DEADLINE_EXCEEDED)],
)
def test_a_worker_that_hangs_after_its_caller_has_left_is_killed_and_the_queue_stays(
    impatient: Metered, phase: str, timeout: float | None, code: grpc.StatusCode
) -> None:
    stuck = impatient.value("easyanim_worker_losses_total", reason="STUCK")
    died = impatient.value("easyanim_worker_losses_total", reason="DIED")
    cancelled = impatient.value("easyanim_jobs_total", outcome="CANCELLED")
    before = impatient.server.worker.pid
    hanging = impatient.stub.Generate(request(f"instant hang in {phase}"), timeout=timeout)
    assert any(event.progress.phase == pb.Phase.Value(f"PHASE_{phase}") for event in hanging)
    waiting = impatient.stub.Generate(request())
    assert next(waiting).HasField("accepted")
    if timeout is None:
        hanging.cancel()
    with pytest.raises(grpc.RpcError) as left:
        list(hanging)

    assert left.value.code() is code
    assert list(waiting)[-1].HasField("completed")
    assert impatient.server.worker.pid != before
    impatient.wait_for(stuck + 1, "easyanim_worker_losses_total", reason="STUCK")
    assert impatient.value("easyanim_worker_losses_total", reason="DIED") == died
    assert impatient.value("easyanim_jobs_total", outcome="CANCELLED") == cancelled + 1
    assert impatient.value("easyanim_job_restarts_total") == 0, "nobody waits for the job"


def test_a_worker_that_leaves_in_time_lives_on_through_the_next_job(impatient: Metered) -> None:
    before = impatient.server.worker.pid
    left = impatient.stub.Generate(request("slow", step_count=50))
    assert any(event.progress.phase == pb.PHASE_DENOISE for event in left)
    left.cancel()
    wait_until_idle(impatient.stub)

    # Longer than the second after which the worker would be killed.
    assert list(impatient.stub.Generate(request("slow", step_count=5)))[-1].HasField("completed")
    assert impatient.server.worker.pid == before


def test_a_worker_whose_steps_are_slow_has_the_time_of_ten(impatient: Metered) -> None:
    before = impatient.server.worker.pid
    call = impatient.stub.Generate(request("very slow in DENOISE", step_count=50))
    for event in call:
        if event.progress.phase == pb.PHASE_DENOISE and event.progress.completed_count:
            break
    call.cancel()
    wait_until_idle(impatient.stub)
    assert list(impatient.stub.Generate(request()))[-1].HasField("completed")
    assert impatient.server.worker.pid == before


@pytest.mark.parametrize("phase", ["TEXT_ENCODE", "DENOISE", "DECODE"])
def test_a_worker_that_freezes_under_a_caller_who_stays_is_killed_and_the_job_begun_anew(
    watchful: Metered, phase: str
) -> None:
    stuck = watchful.value("easyanim_worker_losses_total", reason="STUCK")
    before = watchful.server.worker.pid
    assert before is not None
    call = watchful.stub.Generate(request("slow", step_count=5))
    assert any(event.progress.phase == pb.Phase.Value(f"PHASE_{phase}") for event in call)
    os.kill(before, signal.SIGSTOP)

    events = list(call)

    (restarted,) = (event.restarted for event in events if event.HasField("restarted"))
    assert restarted.attempt == 2
    heard = re.fullmatch(r"nothing was heard of the worker for (\d+(?:\.\d+)?) s, so it was killed", restarted.detail)
    assert heard
    assert float(heard[1]) >= 4
    assert events[-1].HasField("completed")
    assert watchful.server.worker.pid != before
    watchful.wait_for(stuck + 1, "easyanim_worker_losses_total", reason="STUCK")


def test_a_job_that_stops_every_worker_fails_and_the_next_one_runs(watchful: Metered) -> None:
    hanging = watchful.stub.Generate(request("instant hang in DENOISE"))
    with pytest.raises(grpc.RpcError) as failed:
        list(hanging)

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "nothing was heard of the worker" in str(failed.value.details())
    assert str(failed.value.details()).endswith("the job was run 2 times")
    assert list(watchful.stub.Generate(request()))[-1].HasField("completed")


def test_steps_that_are_slower_than_that_are_waited_for(watchful: Metered) -> None:
    before = watchful.server.worker.pid
    events = list(watchful.stub.Generate(request("very slow in DENOISE", step_count=3)))  # of 2 s

    assert events[-1].HasField("completed")
    assert watchful.server.worker.pid == before
