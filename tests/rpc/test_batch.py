"""Batches against real servers: results, going on, retries, cancelling."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from easyanim.v1 import video_pb2 as pb
from tests.e2e.processes import eventually
from tests.rpc.command import MAIN
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    PATIENCE,
    RESTARTED,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    chunks,
    error_info,
    failure,
    retry_info,
    success,
)
from tests.servers import RunningServer

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(2_000)
FULL = failure(code_pb2.RESOURCE_EXHAUSTED, "all places are taken", error_info("QUEUE_FULL"), retry_info(0.01))
LOST = failure(code_pb2.UNAVAILABLE, "the worker was lost", error_info("WORKER_LOST"), retry_info(0.01))


def rows(folder: str | Path = "videos") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Writes jobs.jsonl in an empty folder and runs it against a server.

    In a process of its own: grpc.aio is made for one event loop a process, and a test's server has one in this process.
    """
    monkeypatch.chdir(tmp_path)

    def run(address: str, *jobs: dict[str, Any], words: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        Path("jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
        command = [sys.executable, "-c", MAIN, "batch", "jobs.jsonl", "--address", address, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def test_every_job_gets_a_row_and_a_failed_one_leaves_the_others_alone(
    batch: Callable[..., subprocess.CompletedProcess[str]], simulated: RunningServer
) -> None:
    result = batch(
        simulated.address,
        {"prompt": "instant one", "steps": 2, "bucket": "64x64"},
        {"prompt": "instant two", "guidance": 0.5},
        {"prompt": "instant, fail in DENOISE please", "steps": 2},
        {"prompt": "instant four", "steps": 2, "seed": 7, "id": "vier", "format": "webm"},
    )

    assert result.returncode == 7
    assert result.stdout == "videos/results.jsonl: 2 done, 2 failed\n"
    assert "[4/4]" in result.stderr
    by_id = {row["id"]: row for row in rows()}
    assert {name: row["status"] for name, row in by_id.items()} == {
        "0001": "done", "0002": "failed", "0003": "failed", "vier": "done",
    }  # fmt: skip
    assert by_id["vier"]["receipt"]["parameters"]["seed"] == by_id["vier"]["seed"] == 7
    assert by_id["vier"]["seconds"] > 0
    assert (Path("videos") / by_id["vier"]["path"]).stat().st_size == by_id["vier"]["bytes"]
    assert by_id["0002"]["error"]["code"] == "INVALID_ARGUMENT"
    assert by_id["0002"]["error"]["fields"] == {"guidance_scale": "is 0.5; must be from 1.0 to 20.0"}
    assert (by_id["0003"]["error"]["code"], by_id["0003"]["error"]["reason"]) == ("INTERNAL", "GENERATION_FAILED")
    assert sorted(os.listdir("videos")) == ["0001.mp4", "results.jsonl", "seeds.json", "vier.webm"]


def test_a_second_run_does_only_what_is_not_done_with_the_same_seeds(
    batch: Callable[..., subprocess.CompletedProcess[str]], simulated: RunningServer
) -> None:
    good = {"prompt": "instant one", "steps": 2, "bucket": "64x64"}
    also = {"prompt": "instant too", "steps": 2, "bucket": "64x64"}
    assert batch(simulated.address, good, also, {"prompt": "instant", "fps": 0}).returncode == 7
    seeds = {row["id"]: row["seed"] for row in rows()}
    first = Path("videos/0001.mp4").read_bytes()
    Path("videos/0002.mp4").unlink()
    with open("videos/results.jsonl", "ab") as file:
        file.write(b'{"id": "0001", "sta')  # what a power cut leaves

    again = batch(simulated.address, good, also, {"prompt": "instant", "steps": 3, "bucket": "64x64"})

    assert again.returncode == 0
    assert "2 done, 1 done before, 0 failed" in again.stdout
    # Rows come in the order in which jobs end, and two run at once.
    before, torn, after = Path("videos/results.jsonl").read_text().partition('{"id": "0001", "sta\n')
    assert torn
    assert len(before.splitlines()) == 3
    added = {row["id"]: row["seed"] for row in map(json.loads, after.splitlines())}
    assert added == {"0002": seeds["0002"], "0003": seeds["0003"]}
    assert Path("videos/0001.mp4").read_bytes() == first
    assert (
        "0 done, 3 done before"
        in batch(simulated.address, good, also, {"prompt": "instant", "steps": 3, "bucket": "64x64"}).stdout
    )


def test_a_changed_job_is_done_again(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)
    assert batch(scripted.address, {"prompt": "a cat"}, {"prompt": "a dog"}).returncode == 0

    batch(scripted.address, {"prompt": "a cat"}, {"prompt": "a wolf"})

    assert [request.prompt for request in scripted.requests][2:] == ["a wolf"]


def test_a_full_queue_is_waited_for_and_a_lost_job_is_sent_again(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.first_scripts = [[FULL], [FULL], [ACCEPTED, LOST]]
    scripted.script = success(DATA)

    result = batch(scripted.address, {"prompt": "a cat"}, words=("--retries", "1"))

    assert result.returncode == 0
    assert len(scripted.requests) == 4
    assert len({request.seed for request in scripted.requests}) == 1
    assert "tries again in 0.01 s: all places are taken" in result.stderr


def test_a_job_that_is_lost_too_often_fails_and_the_rest_goes_on(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.first_scripts = [[ACCEPTED, LOST], [ACCEPTED, LOST]]
    scripted.script = success(DATA)

    result = batch(
        scripted.address, {"prompt": "a cat"}, {"prompt": "a dog"}, words=("--retries", "1", "--concurrency", "1")
    )

    assert result.returncode == 7
    assert [(row["id"], row["status"]) for row in rows()] == [("0001", "failed"), ("0002", "done")]
    assert rows()[0]["error"]["reason"] == "WORKER_LOST"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(code_pb2.RESOURCE_EXHAUSTED, "RESULT_QUOTA"), (code_pb2.ABORTED, "RESULT_EXPIRED")],
    ids=lambda value: str(value),
)
def test_a_video_that_was_made_and_given_up_unread_is_not_made_again(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService, code: int, reason: str
) -> None:
    given_up = failure(code, "the file was not read, so it was dropped", error_info(reason))
    scripted.first_scripts = [[ACCEPTED, given_up]]
    scripted.script = success(DATA)

    result = batch(
        scripted.address, {"prompt": "a cat"}, {"prompt": "a dog"}, words=("--retries", "5", "--concurrency", "1")
    )

    assert result.returncode == 7
    assert [(row["id"], row["status"]) for row in rows()] == [("0001", "failed"), ("0002", "done")]
    assert rows()[0]["error"]["reason"] == reason
    assert [request.prompt for request in scripted.requests] == ["a cat", "a dog"]


def test_a_job_that_the_server_restarts_is_done_and_not_sent_again(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.script = [ACCEPTED, *chunks(b"void" * 999), RESTARTED, *success(DATA)[1:]]

    result = batch(scripted.address, {"prompt": "a cat"})

    assert result.returncode == 0, result.stderr
    assert len(scripted.requests) == 1
    assert result.stderr.count("0001: restarted, run 2: the worker process ended (killed by signal 9)") == 1
    assert Path("videos/0001.mp4").read_bytes() == DATA


def test_a_server_that_takes_nothing_ends_the_batch_without_blaming_its_jobs(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.script = [FULL]

    result = batch(scripted.address, {"prompt": "a cat"}, {"prompt": "a dog"}, words=("--patience", "0.05"))

    assert result.returncode == 4
    assert not Path("videos/results.jsonl").exists()


def test_a_server_that_is_not_there_is_said_at_once(batch: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert batch("127.0.0.1:1", {"prompt": "a cat"}).returncode == 3


def test_a_file_that_is_wrong_sends_nothing(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    result = batch(scripted.address, {"prompt": "a cat"}, {"promt": "a dog"})

    assert result.returncode == 2
    assert "line 2: unknown key 'promt'" in result.stderr
    assert scripted.requests == []


def test_json_prints_the_rows_as_they_come(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.first_scripts = [[ACCEPTED, BROKEN]]
    scripted.script = success(DATA)

    result = batch(scripted.address, {"prompt": "a"}, {"prompt": "b"}, words=("--json", "--concurrency", "1"))

    assert [json.loads(line) for line in result.stdout.splitlines()] == rows()
    assert result.stderr == ""


def test_seeds_that_were_damaged_are_not_drawn_anew_in_silence(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    Path("videos").mkdir()
    Path("videos/seeds.json").write_text("{")

    result = batch(scripted.address, {"prompt": "a cat"})

    assert result.returncode == 2
    assert "seeds.json is damaged" in result.stderr


def test_jobs_run_side_by_side_up_to_the_limit(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    together = threading.Barrier(3)
    scripted.script = [ACCEPTED, together, *success(DATA)[1:]]

    result = batch(scripted.address, *[{"prompt": f"cat {n}"} for n in range(6)], words=("--concurrency", "3"))

    assert result.returncode == 0, result.stderr
    assert sorted((row["id"], row["status"]) for row in rows()) == [(f"000{n}", "done") for n in range(1, 7)]
    assert scripted.most_at_once == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_what_runs_and_keeps_what_is_done(
    scripted: ScriptedVideoService, tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n')
    scripted.first_scripts = [success(DATA)]
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    words = ["batch", "jobs.jsonl", "--json", "--concurrency", "1", "--address", scripted.address]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == "0001"
        eventually(lambda: len(scripted.requests) == 2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)

    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert scripted.cancelled.wait(PATIENCE)
    assert [row["id"] for row in rows(tmp_path / "videos")] == ["0001"]
    assert sorted(os.listdir(tmp_path / "videos")) == ["0001.mp4", "results.jsonl", "seeds.json"]


def test_every_option_reaches_jobs_that_do_not_say_it(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    given = {"steps": 9, "bucket": "384x672", "frames": 25, "guidance": 2, "fps": 12, "fit": "pad", "format": "mkv",
             "background": "#ffee00"}  # fmt: skip
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    batch(scripted.address, {"prompt": "a cat", "steps": 3}, words=(*words, "--negative", "", "--embed-prompt"))

    (sent,) = scripted.requests
    assert (sent.step_count, sent.bucket, sent.frame_count, sent.guidance_scale) == (3, "384x672", 25, 2)
    assert (sent.frame_rate_fps, sent.fit_policy, sent.output_mime_type) == (12, pb.FIT_POLICY_PAD, "video/x-matroska")
    assert sent.background_color == "#ffee00"
    assert sent.HasField("negative_prompt")
    assert sent.embed_prompt


def test_a_folder_of_a_phone_and_a_mac_is_sent_as_far_as_it_is_pictures_and_the_rest_is_said(
    scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    scripted.script = success(DATA)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("._x.jpg", "x.jpg", "y.HEIC", "z.gif"):
        (folder / name).write_bytes(name.encode())
    command = [sys.executable, "-c", MAIN, "batch", "pictures", "--prompt", "a cat", "--address", scripted.address]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
    assert sorted(request.start_image for request in scripted.requests) == [b"x.jpg", b"y.HEIC"]
    assert "z.gif is left out: .gif is none of .avif, .heic" in result.stderr
    assert "._x" not in result.stderr


def test_the_video_of_a_changed_or_foreign_job_stays_and_the_new_one_is_beside_it(
    batch: Callable[..., subprocess.CompletedProcess[str]], scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)
    Path("videos").mkdir()
    Path("videos/0002.mp4").write_bytes(b"somebody else's")
    assert batch(scripted.address, {"prompt": "a cat"}, {"prompt": "a dog"}).returncode == 0
    first = Path("videos/0001.mp4").read_bytes()
    changed = {"prompt": "a lion"}, {"prompt": "a dog"}

    assert batch(scripted.address, *changed).returncode == 0
    assert "0 done, 2 done before" in batch(scripted.address, *changed).stdout

    assert Path("videos/0001.mp4").read_bytes() == first
    assert Path("videos/0002.mp4").read_bytes() == b"somebody else's"
    last = {row["id"]: row["path"] for row in rows()}
    assert last == {"0001": "0001-2.mp4", "0002": "0002-2.mp4"}
    assert all(row["request_id"] for row in rows())

    assert batch(scripted.address, {"prompt": "a wolf"}, words=("--force",)).returncode == 0
    assert sorted(file.name for file in Path("videos").glob("*.mp4")) == [
        "0001-2.mp4",
        "0001.mp4",
        "0002-2.mp4",
        "0002.mp4",
    ]
