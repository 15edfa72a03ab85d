"""What of a batch is held against the server before any of it is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyanim.v1 import video_pb2 as pb
from tests.rpc.command import MAIN
from tests.rpc.scripted import ScriptedVideoService, success

pytest_plugins = ("tests.rpc.callers",)

OFFERED = pb.GetServerInfoResponse(
    buckets=[
        pb.Bucket(name="384x672", width_px=672, height_px=384, frame_counts=[25, 49]),
        pb.Bucket(name="512x512", width_px=512, height_px=512, frame_counts=[13]),
    ],
    limits=pb.Limits(max_step_count=200),
    profiles=[pb.Profile(name="exact"), pb.Profile(name="fast")],
)
GOOD = {"prompt": "a cat", "bucket": "384x672", "frames": 25, "steps": 200, "profile": "fast"}


@pytest.fixture
def batch(
    scripted: ScriptedVideoService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a source of jobs against the scripted service, in a process of its own as grpc.aio wants it."""
    monkeypatch.chdir(tmp_path)
    scripted.script = success(os.urandom(2_000))
    scripted.info = OFFERED

    def run(source: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MAIN, "batch", source, *words, "--address", scripted.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def written(*jobs: dict[str, Any]) -> str:
    Path("jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return "jobs.jsonl"


def test_every_line_that_the_server_would_refuse_is_named_and_none_is_sent(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    jobs = written(
        GOOD,
        {**GOOD, "bucket": "9x9", "steps": 0},
        {**GOOD, "bucket": "512x512"},
        {"prompt": "a cat", "frames": 5},
        {"prompt": "a cat", "profile": "turbo"},
    )

    result = batch(jobs)

    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "Error: jobs.jsonl cannot be run:",
        "  line 2: bucket: is '9x9'; must be one of 384x672, 512x512; step_count (steps): is 0; must be from 1 to 200",
        "  line 3: frame_count (frames): is 25; must be one of 13 in bucket 512x512",
        "  line 4: frame_count (frames): is 5; must be one of 13, 25, 49",
        "  line 5: profile: is 'turbo'; must be one of exact, fast",
    ]
    assert scripted.requests == []
    assert not Path("videos/results.jsonl").exists()


def test_options_for_all_jobs_are_held_against_the_server_too(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    Path("pictures").mkdir()
    Path("pictures/cup.jpg").write_bytes(b"picture")

    result = batch("pictures", "--prompt", "a cup", "--bucket", "9x9", "--json")

    assert result.returncode == 2
    assert "  cup.jpg: bucket: is '9x9'; must be one of 384x672, 512x512" in result.stderr.splitlines()
    assert json.loads(result.stdout)["event"] == "error"
    assert scripted.requests == []


def test_what_an_earlier_run_has_done_need_not_be_offered_any_more(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    assert batch(written(GOOD)).returncode == 0
    scripted.info = pb.GetServerInfoResponse(buckets=OFFERED.buckets[1:])

    result = batch(written(GOOD, {"prompt": "a dog"}))

    assert result.returncode == 0, result.stderr
    assert [sent.prompt for sent in scripted.requests] == ["a cat", "a dog"]


def test_a_server_that_does_not_say_what_it_offers_is_sent_everything(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.info = pb.GetServerInfoResponse()

    assert batch(written({"prompt": "a cat", "bucket": "9x9", "frames": 5, "steps": 999})).returncode == 0
    assert len(scripted.requests) == 1
