"""The life of a request over a real channel, with a real worker process and a simulated engine."""

from __future__ import annotations

import gc
import hashlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain import errors
from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.rpc.status import CODES
from tests import video_reader
from tests.conftest import Stub, kinds, request
from tests.e2e.processes import eventually
from tests.engines import SIMULATED
from tests.rpc.calls import detail, wait_until_idle
from tests.servers import RunningServer, settings

PHASES = ["TEXT_ENCODE", "IMAGE_ENCODE", "DENOISE", "DECODE"]


def test_events_come_in_the_documented_order_and_the_chunks_are_the_file(stub: Stub, png: bytes) -> None:
    events = list(stub.Generate(request(start_image=png)))

    names = kinds(events)
    assert names[0] == "accepted"
    assert names[1] == "queued"
    assert names[-1] == "completed"
    order = ["accepted", "queued", "progress"]
    early = [name for name in names if name in order]
    assert early == sorted(early, key=order.index)
    chunks = [event.chunk for event in events if event.HasField("chunk")]
    offsets = list(itertools.accumulate((len(chunk.data) for chunk in chunks), initial=0))
    assert [chunk.offset_bytes for chunk in chunks] == offsets[:-1]
    assert all(0 < len(chunk.data) <= 256 * 1024 for chunk in chunks)
    file = b"".join(chunk.data for chunk in chunks)
    completed = events[-1].completed
    assert completed.size_bytes == len(file)
    assert completed.sha256 == hashlib.sha256(file).digest()


@pytest.mark.parametrize("media_type", ["video/mp4", "video/webm", "video/x-matroska"])
def test_the_file_has_the_frames_size_and_rate_that_were_asked_for(stub: Stub, media_type: str) -> None:
    events = list(stub.Generate(request(output_mime_type=media_type, bucket="96x64", frame_rate_fps=12)))

    video = video_reader.read(b"".join(event.chunk.data for event in events))
    assert video.frames.shape == (9, 96, 64, 3)
    assert video.fps == 12


def test_accepted_echoes_every_default(stub: Stub, png: bytes) -> None:
    accepted = next(stub.Generate(pb.GenerateRequest(prompt="instant", start_image=png))).accepted

    assert accepted.job_id
    assert accepted.prompt_token_count == 1
    assert not accepted.prompt_truncated
    parameters = accepted.parameters
    assert (parameters.bucket, parameters.width_px, parameters.height_px) == ("64x96", 96, 64)
    assert (parameters.frame_count, parameters.step_count, parameters.guidance_scale) == (9, 35, 6.0)
    assert (parameters.frame_rate_fps, parameters.output_mime_type) == (8, "video/mp4")
    assert parameters.fit_policy == pb.FIT_POLICY_CROP
    assert (parameters.conditioning, parameters.task) == (pb.CONDITIONING_START, "start")
    assert parameters.negative_prompt.startswith("Twisted body")


def test_a_chinese_prompt_gets_the_chinese_negative_prompt(stub: Stub) -> None:
    accepted = next(stub.Generate(pb.GenerateRequest(prompt="一只猫 instant"))).accepted
    assert accepted.parameters.negative_prompt.startswith("扭曲的身体")


def test_an_empty_negative_prompt_means_none(stub: Stub) -> None:
    accepted = next(stub.Generate(request(negative_prompt=""))).accepted
    assert accepted.parameters.negative_prompt == ""


def test_a_prompt_over_256_tokens_is_accepted_and_said_to_be_cut(stub: Stub) -> None:
    accepted = next(stub.Generate(request("instant " * 257))).accepted
    assert accepted.prompt_token_count == 257
    assert accepted.prompt_truncated


def test_seed_zero_is_a_seed_and_an_unset_seed_is_drawn_anew(stub: Stub) -> None:
    seeds = [next(stub.Generate(request())).accepted.parameters.seed for _ in range(3)]
    assert len(set(seeds)) == 3
    assert next(stub.Generate(request(seed=0))).accepted.parameters.seed == 0


def test_the_same_seed_gives_the_same_file(stub: Stub) -> None:
    first, again, other = (list(stub.Generate(request(seed=seed)))[-1].completed.sha256 for seed in (5, 5, 6))
    assert first == again != other


def test_progress_names_every_phase_with_counts_times_and_eta(stub: Stub, png: bytes) -> None:
    list(stub.Generate(request("a cat", start_image=png)))  # the second run of a bucket has an ETA from its start
    events = list(stub.Generate(request("a cat", start_image=png)))

    progress = [event.progress for event in events if event.HasField("progress")]
    assert [pb.Phase.Name(item) for item in dict.fromkeys(item.phase for item in progress)] == [
        f"PHASE_{name}" for name in PHASES
    ]
    last = {item.phase: item for item in progress}
    assert all(item.completed_count == item.total_count for item in last.values())
    assert last[pb.PHASE_DENOISE].total_count == 3
    assert last[pb.PHASE_DECODE].total_count == 9
    assert last[pb.PHASE_DENOISE].unit_duration.ToMilliseconds() >= 20
    assert all(item.HasField("eta_duration") for item in progress)
    etas = [item.eta_duration.ToNanoseconds() for item in progress]
    assert etas[0] > etas[-1]


def test_timings_and_receipt_say_what_was_done(stub: Stub, png: bytes) -> None:
    completed = list(stub.Generate(request("a cat", start_image=png, seed=7)))[-1].completed

    timings = completed.timings
    parts = [timings.text_encode_duration, timings.image_encode_duration, timings.denoise_duration]
    parts.append(timings.decode_duration)
    total = timings.total_duration.ToNanoseconds()
    assert 0.9 * total < sum(part.ToNanoseconds() for part in parts) <= total
    assert completed.receipt.parameters.seed == 7
    assert completed.receipt.model == "simulated:fine"
    assert completed.receipt.backend == "simulated"


def test_a_silent_phase_is_filled_with_heartbeats() -> None:
    times, elapsed = [], []
    with (
        RunningServer(settings(heartbeat_seconds="0.05"), SIMULATED) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for event in Stub(channel).Generate(request("slow", step_count=2)):
            times.append(time.monotonic())
            if event.HasField("progress"):
                elapsed.append(event.progress.elapsed_duration.ToNanoseconds())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) > 20
    assert statistics.median(gaps) < 0.15, "each unit takes 0.2 s"
    assert elapsed == sorted(elapsed)


def test_a_full_queue_refuses_with_a_delay_before_pictures_are_decoded_and_says_who_is_ahead() -> None:
    with RunningServer(settings(queue_size="2"), SIMULATED) as server, grpc.insecure_channel(server.address) as channel:
        stub = Stub(channel)
        running = stub.Generate(request("slow", step_count=50))
        assert any(event.HasField("progress") for event in running)
        waiting = []
        for ahead in (1, 2):
            waiting.append(call := stub.Generate(request()))
            assert next(call).HasField("accepted")
            assert next(call).queued.jobs_ahead_count == ahead

        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Generate(request()))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(refused.value, error_details_pb2.ErrorInfo).reason == "QUEUE_FULL"
        assert detail(refused.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() >= 1000
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Generate(request(start_image=b"nothing that a decoder would take")))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        waiting[0].cancel()
        eventually(lambda: server.app.jobs.workload.waiting == 1)
        assert next(stub.Generate(request())).HasField("accepted"), "a cancelled job gives its place back"
        running.cancel()
        assert list(waiting[1])[-1].HasField("completed")


def test_a_job_that_runs_does_not_keep_its_request(simulated: RunningServer, png: bytes) -> None:
    message = request("slow and soon forgotten", step_count=200, start_image=png).SerializeToString()
    with grpc.insecure_channel(simulated.address) as channel:
        generate: Any = channel.unary_stream("/easyanim.v1.VideoService/Generate")  # no message of ours on this side
        call = generate(message)
        for _ in ("accepted", "queued", "progress"):
            next(call)
        eventually(lambda: "slow and soon forgotten" not in prompts_of_requests())
        assert call.is_active()
        call.cancel()


def prompts_of_requests() -> list[str]:
    """Of those that are alive in this process."""
    return [item.prompt for item in gc.get_objects() if type(item) is pb.GenerateRequest]


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_in_any_phase_frees_the_worker_within_a_unit(stub: Stub, png: bytes, phase: str) -> None:
    # What is left takes 40 s in units of 0.2 s, or 6 s in units of 2 s.
    prompt, steps = ("very slow in DECODE", 1) if phase == "DECODE" else ("slow", 200)
    call = stub.Generate(request(prompt, step_count=steps, start_image=png))
    for event in call:
        if event.progress.phase == pb.Phase.Value(f"PHASE_{phase}"):
            break
    call.cancel()

    wait_until_idle(stub, 5.5)
    assert list(stub.Generate(request()))[-1].HasField("completed")


def test_a_deadline_stops_the_work(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as expired:
        list(stub.Generate(request("slow", step_count=200), timeout=0.5))

    assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until_idle(stub)  # within 10 s of 40


@pytest.mark.parametrize("phase", PHASES)
def test_a_failure_in_any_phase_ends_as_internal_with_an_id_and_harms_nobody_else(
    stub: Stub, png: bytes, phase: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        list(stub.Generate(request(f"instant fail in {phase}", start_image=png)))

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    info = detail(failed.value, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("GENERATION_FAILED", "easyanim")
    assert "a fault that was asked for" not in str(failed.value.details()), "inner errors stay in the log"
    assert list(stub.Generate(request()))[-1].HasField("completed")
    assert info.metadata["error_id"] in str(failed.value.details())


@pytest.fixture(scope="module")
def unforgiving() -> Iterator[RunningServer]:
    """A server that runs no job again."""
    with RunningServer(settings(job_attempts="1"), SIMULATED) as server:
        yield server


@pytest.mark.parametrize("phase", PHASES)
def test_where_jobs_are_run_once_the_workers_death_fails_its_job_and_the_next_one_finds_a_new_worker(
    unforgiving: RunningServer, connect: Callable[[str], Stub], png: bytes, phase: str
) -> None:
    before, stub = unforgiving.worker.pid, connect(unforgiving.address)
    doomed = stub.Generate(request(f"instant die in {phase}", start_image=png))
    next(doomed)
    waiting = stub.Generate(request())
    assert next(waiting).HasField("accepted")
    with pytest.raises(grpc.RpcError) as lost:
        list(doomed)

    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(lost.value, error_details_pb2.ErrorInfo).reason == "WORKER_LOST"
    assert detail(lost.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert list(waiting)[-1].HasField("completed"), "a job that waited is not lost with the worker"
    assert unforgiving.worker.pid != before


def test_a_device_that_is_broken_for_good_costs_one_job_and_its_process(
    unforgiving: RunningServer, connect: Callable[[str], Stub]
) -> None:
    before, stub = unforgiving.worker.pid, connect(unforgiving.address)
    with pytest.raises(grpc.RpcError) as lost:
        list(stub.Generate(request("instant break in DENOISE")))

    assert detail(lost.value, error_details_pb2.ErrorInfo).reason == "WORKER_LOST"
    assert list(stub.Generate(request()))[-1].HasField("completed")
    assert unforgiving.worker.pid != before


def test_every_failure_has_a_code() -> None:
    named = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EasyAnimError)}
    assert set(CODES) == named - {EasyAnimError}


def test_a_fault_of_the_configuration_that_a_job_brings_to_light_has_its_name(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        list(stub.Generate(request("instant misconfigured in DECODE")))

    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(failed.value, error_details_pb2.ErrorInfo).reason == "CONFIGURATION"
    assert "libvpx-vp9" in (failed.value.details() or "")


def test_a_reader_that_stops_never_stalls_the_worker(stub: Stub) -> None:
    # Noise in a lossless format: far more bytes than the transport's windows hold.
    stopped = stub.Generate(request(output_mime_type="video/x-matroska", bucket="96x64"))
    next(stopped)
    wait_until_idle(stub)

    assert list(stopped)[-1].HasField("completed"), "what was not read at once is still there"
