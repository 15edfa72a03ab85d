"""A job whose worker process is killed is run once more, over a real channel, with real worker processes.

The engine is simulated; `tests/e2e/test_commands.py` has the same with the real one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from easyanim.v1 import video_pb2 as pb
from tests.conftest import Stub, kinds, request
from tests.e2e.processes import eventually
from tests.engines import SIMULATED
from tests.rpc.calls import NOT_SERVING, detail, health, wait_until_idle
from tests.servers import RunningServer, settings

Event = pb.GenerateResponse


class Killable:
    """A server whose workers can be killed, and kept from coming up again."""

    def __init__(self, server: RunningServer, stub: Stub, folder: Path) -> None:
        self.server = server
        self.stub = stub
        self._folder = folder

    def kill(self) -> None:
        """End the worker process as an operator, or the kernel short of memory, does."""
        pid = self.server.worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    @contextmanager
    def no_worker(self, at_once: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Kill the worker and do that `at_once`; no other one comes up within this context."""
        self._folder.touch()
        self.kill()
        try:
            at_once()
            eventually(lambda: "cannot be written" in self.server.app.jobs.detail)
            yield
        finally:
            self._folder.unlink()


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    folder = tmp_path_factory.mktemp("restart") / "cache"
    with (
        RunningServer(settings(cache_dir=str(folder), buckets="64x96x33"), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Killable(server, Stub(channel), folder)


def denoising(event: Event) -> bool:
    """Whether a step was taken."""
    return event.progress.phase == pb.PHASE_DENOISE and event.progress.completed_count > 0


def sends(event: Event) -> bool:
    """Whether bytes of the file came while frames are still being decoded."""
    return event.HasField("chunk")


def read(call: Iterator[Event], seen: list[Event], until: Callable[[Event], bool]) -> None:
    """Take events until one is as asked for."""
    for event in call:
        seen.append(event)
        if until(event):
            return
    raise AssertionError(f"the call ended after {kinds(seen)}")


def slow(**fields: object) -> pb.GenerateRequest:
    """A request that takes three seconds, with a file of many parts."""
    return request("slow cat", **{"seed": 7, "output_mime_type": "video/x-matroska", **fields})


@pytest.fixture(scope="module")
def undisturbed(killable: Killable) -> pb.Completed:
    """The end of a video that nothing came between."""
    completed: pb.Completed = list(killable.stub.Generate(slow()))[-1].completed
    return completed


@pytest.mark.parametrize("moment", [denoising, sends], ids=["in mid-denoise", "in mid-decode after chunks were sent"])
def test_a_worker_that_is_killed_costs_its_caller_one_event_and_some_time(
    killable: Killable, undisturbed: pb.Completed, moment: Callable[[Event], bool]
) -> None:
    call = killable.stub.Generate(slow())
    events: list[Event] = []
    read(call, events, moment)
    killable.kill()
    read(call, events, lambda event: event.HasField("restarted"))
    restarted, again = events[-1].restarted, list(call)

    assert not any(event.HasField("completed") for event in events)
    assert (restarted.attempt, restarted.reason) == (2, "WORKER_LOST")
    assert "killed by signal 9" in restarted.detail
    assert "restarted" not in kinds(again)
    order = ["queued", "progress"]
    early = [name for name in kinds(again) if name in order]
    assert early == sorted(early, key=order.index)
    assert again[0].queued.jobs_ahead_count == 0
    assert not again[0].queued.HasField("eta_duration"), "how long a worker takes to come up is not known"
    chunks = [event.chunk for event in again if event.HasField("chunk")]
    assert [chunk.offset_bytes for chunk in chunks] == [
        0,
        *itertools.accumulate(len(chunk.data) for chunk in chunks[:-1]),
    ]
    completed = again[-1].completed
    assert hashlib.sha256(b"".join(chunk.data for chunk in chunks)).digest() == completed.sha256 == undisturbed.sha256
    assert completed.receipt == undisturbed.receipt


def test_a_job_that_loses_two_workers_fails_and_leaves_the_third_to_others(killable: Killable) -> None:
    poison, waiting = killable.stub.Generate(slow()), killable.stub.Generate(request())
    events: list[Event] = []
    with pytest.raises(grpc.RpcError) as lost:
        while True:
            read(poison, events, denoising)
            killable.kill()

    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(lost.value, error_details_pb2.ErrorInfo).reason == "WORKER_LOST"
    assert "run 2 times" in str(lost.value.details())
    assert kinds(events).count("restarted") == 1
    assert list(waiting)[-1].HasField("completed")


def test_while_the_worker_comes_up_the_job_is_next_and_the_queue_keeps_its_order(killable: Killable) -> None:
    calls = [killable.stub.Generate(slow())]
    read(calls[0], [], denoising)
    for _ in range(2):
        calls.append(killable.stub.Generate(slow(step_count=1)))
        read(calls[-1], [], lambda event: event.HasField("queued"))  # the next one may not overtake it
    ended: list[int] = []

    def finish(number: int) -> None:
        if list(calls[number])[-1].HasField("completed"):
            ended.append(number)

    with killable.no_worker():
        assert health(killable.server.address) == NOT_SERVING
        info = killable.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert [item.jobs_ahead_count for item in info.activity] == [0, 1, 2]
        assert not any(item.HasField("eta_duration") for item in info.activity)
        assert killable.server.app.jobs.workload.waiting == info.job_count == 3
    callers = [threading.Thread(target=finish, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert ended == [0, 1, 2]


def test_a_caller_that_leaves_while_the_worker_comes_up_has_no_job_any_more(killable: Killable) -> None:
    call = killable.stub.Generate(slow(step_count=50))
    events: list[Event] = []
    read(call, events, denoising)
    with killable.no_worker():
        read(call, events, lambda event: event.HasField("restarted"))
        call.cancel()
        wait_until_idle(killable.stub)
    assert list(killable.stub.Generate(request()))[-1].HasField("completed")


def test_a_deadline_that_passes_while_the_worker_comes_up_ends_the_job_there(killable: Killable) -> None:
    call = killable.stub.Generate(slow(step_count=200), timeout=6)
    events: list[Event] = []
    read(call, events, denoising)
    # Read at once: when the deadline has passed, what was not read is lost, and a worker takes seconds to be refused.
    with killable.no_worker(lambda: read(call, events, lambda event: event.HasField("restarted"))):
        with pytest.raises(grpc.RpcError) as late:
            read(call, events, lambda event: event.HasField("completed"))
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert kinds(events).count("restarted") == 1
        wait_until_idle(killable.stub)


def test_a_drain_waits_for_a_job_that_is_run_again(tmp_path: Path) -> None:
    with (
        RunningServer(settings(cache_dir=str(tmp_path / "cache")), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        killable = Killable(server, Stub(channel), tmp_path / "cache")
        call = killable.stub.Generate(slow(step_count=10))
        events: list[Event] = []
        read(call, events, denoising)
        with killable.no_worker():
            server.stop()
            eventually(lambda: server.app.jobs.state.value == "DRAINING")
        read(call, events, lambda event: event.HasField("completed"))
    assert kinds(events).count("restarted") == 1
