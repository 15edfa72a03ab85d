"""Generations, info and health over a real channel, against a scripted service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from tests.rpc.callers import Caller
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    DENOISE,
    PATIENCE,
    QUEUED,
    RESTARTED,
    UNKNOWN_EVENT,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    chunks,
    completed,
    success,
)

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(4_321)


async def test_events_arrive_typed_in_order_and_end_in_the_video(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    accepted, queued, progress, *parts, video = await caller.follow(caller.client.generate("a cat"))

    assert isinstance(accepted, ea.Accepted)
    assert accepted.job_id == "job-1"
    assert accepted.parameters.bucket == "384x672"
    assert (accepted.parameters.format, accepted.parameters.fit, accepted.parameters.conditioning) == (
        "mp4",
        "pad",
        "start",
    )
    assert queued == ea.Queued(jobs_ahead=2, eta_seconds=61.5)
    assert progress == ea.Progress(ea.Phase.DENOISE, 12, 35, unit_seconds=1.25, elapsed_seconds=15.5, eta_seconds=30.25)
    assert b"".join(part.data for part in parts if isinstance(part, ea.Chunk)) == DATA
    assert isinstance(video, ea.Video)


async def test_the_background_is_sent_and_told_black_where_an_older_server_says_nothing(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    video = await caller.result(caller.client.generate("a cat", background_color="#ffee00"))

    assert scripted.requests[0].background_color == "#ffee00"
    assert video.receipt.parameters.background_color == "#000000"


async def test_the_video_carries_its_bytes_timings_and_receipt(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)

    generation = caller.client.generate("a cat")
    video = await caller.result(generation)

    assert video.data == video.read() == DATA
    assert (video.path, video.size) == (None, len(DATA))
    assert video.timings.denoise_seconds == 43.75
    assert video.peak_device_bytes == 12_345
    assert video.receipt.parameters.seed == 42
    assert video.receipt.versions == {"easyanim": "0.1.0"}
    assert generation.video is await caller.result(generation) is video


async def test_arguments_reach_the_server_and_unset_ones_stay_unset(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    await caller.result(caller.client.generate("a cat", start_image=b"picture", seed=0, aspect_ratio="16:9"))

    sent = scripted.requests[0]
    assert (sent.prompt, sent.start_image, sent.seed) == ("a cat", b"picture", 0)
    assert sent.aspect_ratio == pytest.approx(16 / 9)
    assert not sent.HasField("step_count")
    assert not sent.HasField("negative_prompt")


async def test_an_event_that_this_client_does_not_know_is_skipped(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = [ACCEPTED, UNKNOWN_EVENT, *chunks(DATA), completed(DATA)]

    events = await caller.follow(caller.client.generate("a cat", timeout=PATIENCE))

    assert [type(event) for event in events[:2]] == [ea.Accepted, ea.Chunk]
    assert isinstance(events[-1], ea.Video)


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "in memory"])
async def test_what_came_before_a_restart_is_discarded(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path, saved: bool
) -> None:
    other = os.urandom(2 * len(DATA))
    scripted.script = [ACCEPTED, DENOISE, *chunks(other), RESTARTED, QUEUED, DENOISE, *chunks(DATA), completed(DATA)]
    target = tmp_path / "cat.mp4" if saved else None

    events = await caller.follow(caller.client.generate("a cat", save_to=target))

    assert [event for event in events if isinstance(event, ea.Restarted)] == [
        ea.Restarted(2, "WORKER_LOST", "the worker process ended (killed by signal 9)")
    ]
    video = events[-1]
    assert isinstance(video, ea.Video)
    assert (video.read(), video.size) == (DATA, len(DATA))
    assert os.listdir(tmp_path) == (["cat.mp4"] if saved else [])


async def test_a_restarted_stream_that_does_not_begin_anew_is_corrupt(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    first, *rest = chunks(DATA)
    scripted.script = [ACCEPTED, first, RESTARTED, *rest, completed(DATA)]

    with pytest.raises(ea.CorruptVideo, match="byte 1000 where byte 0 was expected"):
        await caller.follow(caller.client.generate("a cat"))


async def test_a_saved_video_appears_under_its_name_only_when_it_is_complete(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    target = tmp_path / "cat.mp4"
    target.write_bytes(b"an older video")
    scripted.script = [ACCEPTED, *chunks(DATA), UNTIL_CANCELLED]

    await caller.follow(caller.client.generate("a cat", save_to=target, overwrite=True), stop_at=ea.Chunk)
    assert target.read_bytes() == b"an older video"

    scripted.script = success(DATA)
    video = await caller.result(caller.client.generate("a cat", save_to=target, overwrite=True))
    assert (video.path, video.data, video.read()) == (target, None, DATA)
    assert os.listdir(tmp_path) == ["cat.mp4"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param([*chunks(DATA), completed(DATA[:-1] + bytes([DATA[-1] ^ 1]))], "SHA-256", id="another-hash"),
        pytest.param([*chunks(DATA)[:-1], completed(DATA)], "4000 bytes arrived of a file that has 4321", id="short"),
        pytest.param([chunks(DATA)[0], chunks(DATA)[2]], "byte 2000 where byte 1000", id="a-gap"),
        pytest.param([chunks(DATA)[0]] * 2, "byte 0 where byte 1000", id="a-part-twice"),
        pytest.param(chunks(DATA), "ended before", id="no-end"),
        pytest.param([*chunks(DATA)[:2], BROKEN], "generation failed", id="failure-after-bytes"),
        pytest.param([*success(DATA), BROKEN], "generation failed", id="failure-after-the-end"),
    ],
)
async def test_a_file_that_is_not_the_announced_one_leaves_nothing_behind(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path, script: list[object], why: str
) -> None:
    scripted.script = script

    with pytest.raises((ea.CorruptVideo, ea.ServerFailed), match=why):
        await caller.result(caller.client.generate("a cat", save_to=tmp_path / "cat.mp4"))

    assert os.listdir(tmp_path) == []


async def test_nothing_is_asked_of_the_server_for_a_file_that_cannot_be_written(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        await caller.result(caller.client.generate("a cat", save_to=tmp_path / "missing" / "cat.mp4"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        await caller.result(caller.client.generate("a cat", save_to=tmp_path / "pipe"))

    assert scripted.requests == []
    assert os.listdir(tmp_path) == ["pipe"]


async def test_a_generation_is_iterated_once(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    generation = caller.client.generate("a cat")
    await caller.follow(generation, stop_at=ea.Accepted)

    with pytest.raises(RuntimeError, match="iterated once"):
        await caller.result(generation)


async def test_info_tells_what_the_server_serves(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(
        version="0.1.0",
        model=pb.Model(name="builtin:tiny", transformer_parameter_count=7),
        buckets=[pb.Bucket(name="96x160", width_px=160, height_px=96, frame_counts=[13, 25])],
        limits=pb.Limits(max_request_bytes=2**20, max_step_count=200, max_queued_count=8),
        state=pb.STATE_STARTING,
        job_count=3,
        state_detail="loading the model",
    )

    scripted.info.picture_mime_types.append("image/heic")
    info = await caller.info()

    assert (info.version, info.state, info.state_detail, info.jobs) == (
        "0.1.0",
        ea.State.STARTING,
        "loading the model",
        3,
    )
    assert (info.model.name, info.model.transformer_parameters) == ("builtin:tiny", 7)
    assert info.buckets == (ea.Bucket("96x160", 160, 96, (13, 25)),)
    assert info.picture_mime_types == ("image/heic",)
    assert (info.limits.max_request_bytes, info.limits.max_steps, info.limits.max_queued) == (2**20, 200, 8)


async def test_health_follows_the_server(caller: Caller, scripted: ScriptedVideoService) -> None:
    assert await caller.health() is True
    scripted.report_health(False)
    assert await caller.health() is False


async def test_progress_without_measurements_has_none_for_them(caller: Caller, scripted: ScriptedVideoService) -> None:
    first = pb.GenerateResponse(progress=pb.Progress(phase=pb.PHASE_DENOISE, total_count=35))
    scripted.script = [pb.GenerateResponse(queued=pb.Queued()), first, DENOISE, QUEUED, *success(b"")]

    queued, progress, *_ = await caller.follow(caller.client.generate("a cat"))

    assert queued == ea.Queued(0, None)
    assert progress == ea.Progress(ea.Phase.DENOISE, 0, 35, None, 0.0, None)
