"""Prometheus metrics of a real server, scraped over HTTP, with a real worker process and a simulated engine."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain.errors import ConfigurationError
from tests.conftest import Stub, request
from tests.engines import SIMULATED, UNIT_SECONDS
from tests.rpc.metered import Metered
from tests.servers import RunningServer, settings

PLAN = {"bucket": "64x96x9", "backend": "simulated", "precision": "float32"}


@pytest.fixture(scope="module")
def metered() -> Iterator[Metered]:
    configured = settings(metrics_listen="127.0.0.1:0", queue_size="1")
    with RunningServer(configured, SIMULATED) as server, grpc.insecure_channel(server.address) as channel:
        yield Metered(server, Stub(channel))


def test_a_completed_job_leaves_its_times_by_bucket_backend_and_precision(metered: Metered, png: bytes) -> None:
    before = metered.value("easyanim_sent_bytes_total")
    events = list(metered.stub.Generate(request("a cat", start_image=png, step_count=4)))

    completed = events[-1].completed
    metered.wait_for(1, "easyanim_jobs_total", bucket="64x96x9", outcome="COMPLETED")
    assert metered.value("easyanim_queue_seconds_count") == 1
    assert metered.value("easyanim_step_seconds_count", **PLAN) == 4
    steps = metered.value("easyanim_step_seconds_sum", **PLAN)
    assert 4 * UNIT_SECONDS <= steps <= completed.timings.denoise_duration.ToNanoseconds() / 1e9 + 1e-6
    for phase in ("TEXT_ENCODE", "IMAGE_ENCODE", "DENOISE", "DECODE"):
        assert metered.value("easyanim_phase_seconds_count", phase=phase, **PLAN) == 1
    decode = metered.value("easyanim_phase_seconds_sum", phase="DECODE", **PLAN)
    assert 0 < metered.value("easyanim_video_encode_seconds_sum", bucket="64x96x9", format="video/mp4") < decode
    metered.wait_for(before + completed.size_bytes, "easyanim_sent_bytes_total")
    metered.wait_for(1, "easyanim_calls_total", method="Generate", code="OK")


def test_cache_lookups_of_the_worker_are_counted_over_its_jobs(metered: Metered) -> None:
    before = metered.value("easyanim_cache_lookups_total", cache="text")
    for _ in range(2):
        list(metered.stub.Generate(request("instant lookups")))

    assert metered.value("easyanim_cache_lookups_total", cache="text") == before + 4
    assert metered.value("easyanim_cache_lookups_total", cache="text", result="hit") >= 2
    assert metered.value("easyanim_cache_lookups_total", cache="compile", result="miss") == 1


def test_refusals_are_counted_by_reason(metered: Metered) -> None:
    with pytest.raises(grpc.RpcError):
        list(metered.stub.Generate(request(step_count=0)))
    running = metered.stub.Generate(request("slow", step_count=50))
    assert any(event.HasField("progress") for event in running)
    waiting = metered.stub.Generate(request())
    next(waiting)
    assert metered.value("easyanim_queue_length") == metered.value("easyanim_queue_limit") == 1
    assert metered.value("easyanim_jobs_running") == 1
    with pytest.raises(grpc.RpcError):
        list(metered.stub.Generate(request()))
    running.cancel()
    list(waiting)

    assert metered.value("easyanim_refusals_total", reason="INVALID_ARGUMENT") == 1
    assert metered.value("easyanim_refusals_total", reason="QUEUE_FULL") == 1
    metered.wait_for(1, "easyanim_calls_total", method="Generate", code="RESOURCE_EXHAUSTED")
    metered.wait_for(1, "easyanim_calls_total", method="Generate", code="INVALID_ARGUMENT")


def test_a_cancel_is_timed_until_the_worker_is_free(metered: Metered) -> None:
    count = metered.value("easyanim_cancel_to_free_seconds_count")
    total = metered.value("easyanim_cancel_to_free_seconds_sum")
    cancelled = metered.value("easyanim_jobs_total", outcome="CANCELLED")
    call = metered.stub.Generate(request("slow", step_count=50))
    assert any(event.progress.phase == pb.PHASE_DENOISE for event in call)
    call.cancel()

    metered.wait_for(count + 1, "easyanim_cancel_to_free_seconds_count")
    assert 0 < metered.value("easyanim_cancel_to_free_seconds_sum") - total < 5, "a unit takes 0.2 s, all of them 10 s"
    assert metered.value("easyanim_jobs_total", outcome="CANCELLED") == cancelled + 1


def test_a_job_that_leaves_the_queue_unserved_is_counted_once(metered: Metered) -> None:
    cancelled = metered.value("easyanim_jobs_total", outcome="CANCELLED")
    started = metered.value("easyanim_queue_seconds_count")
    running = metered.stub.Generate(request("slow", step_count=50))
    assert any(event.HasField("progress") for event in running)
    waiting = metered.stub.Generate(request())
    next(waiting)
    waiting.cancel()

    metered.wait_for(cancelled + 1, "easyanim_jobs_total", outcome="CANCELLED")
    assert metered.value("easyanim_queue_seconds_count") == started + 1
    running.cancel()
    metered.wait_for(0, "easyanim_jobs_running")


def test_lost_workers_are_counted_and_so_are_their_successors_and_the_restart_between(metered: Metered) -> None:
    with pytest.raises(grpc.RpcError):
        list(metered.stub.Generate(request("instant die in DENOISE")))
    metered.wait_for(2, "easyanim_worker_losses_total")
    metered.wait_for(1, "easyanim_job_restarts_total", bucket="64x96x9")
    metered.wait_for(1, "easyanim_jobs_total", outcome="WORKER_LOST")
    metered.wait_for(3, "easyanim_worker_starts_total")
    metered.wait_for(1, "easyanim_state", state="SERVING")
    before = metered.value("easyanim_cache_lookups_total", cache="text")
    list(metered.stub.Generate(request()))
    assert metered.value("easyanim_cache_lookups_total", cache="text") == before + 2, "it counts from its own zero"


def test_what_is_served_stands_in_labels_and_no_prompt_does(metered: Metered) -> None:
    list(metered.stub.Generate(request("instant zebra", negative_prompt="okapi")))
    text = metered.text

    assert metered.value("easyanim_server_info", model="simulated:fine", dtype="float32") == 1
    assert metered.value("easyanim_plan_build_seconds", bucket="64x64x5", backend="simulated", attention="none") == 0
    assert "zebra" not in text
    assert "okapi" not in text
    assert "easyanim_device_memory_used_bytes{" not in text, "the simulated worker holds no device"


def test_servers_in_one_process_count_for_themselves(metered: Metered, connect: Callable[[str], Stub]) -> None:
    list(metered.stub.Generate(request()))
    with RunningServer(settings(metrics_listen="127.0.0.1:0"), SIMULATED) as server:
        other = Metered(server, connect(server.address))
        assert other.value("easyanim_calls_total") == 0
        assert metered.value("easyanim_calls_total") > 0
        port = server.app.metrics_port
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1)


def test_metrics_are_off_unless_they_are_asked_for(simulated: RunningServer) -> None:
    assert simulated.app.metrics_port is None


def test_an_address_that_cannot_be_had_ends_the_server_with_its_name(metered: Metered) -> None:
    address = f"127.0.0.1:{metered.server.app.metrics_port}"
    server = RunningServer(settings(metrics_listen=address), SIMULATED, wait=False)
    with server:
        server._thread.join(30)
    assert isinstance(server.error, ConfigurationError)
    assert address in str(server.error)
    assert "metrics_listen" in str(server.error)
