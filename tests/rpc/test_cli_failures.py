"""What the command line says of failures: the option that was typed, one line of JSON for scripts, no silent option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2
from typer.testing import CliRunner, Result

from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from easyanim_client.commands.shared import FLAGS
from tests.rpc.command import MAIN, Command
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    INVALID,
    PATIENCE,
    QUEUE_FULL,
    ScriptedVideoService,
    chunks,
    completed,
    failure,
    success,
)
from tests.servers import RunningServer

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(2_000)
WIDE = {"COLUMNS": "200"}


@pytest.fixture
def run(run: Command, scripted: ScriptedVideoService) -> Command:
    scripted.script = success(DATA)
    return partial(run, **WIDE)


def last_line(result: Result) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return event


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--steps", "0", "  step_count (--steps): is 0; must be from 1 to 200"),
        ("--guidance", "0.5", "  guidance_scale (--guidance): is 0.5; must be from 1.0 to 20.0"),
        ("--fps", "61", "  frame_rate_fps (--fps): is 61; must be from 1 to 60"),
        ("--seed", "-1", "  seed (--seed): is -1; must be from 0 to "),
        ("--frames", "50", "  frame_count (--frames): is 50; must be 4k+1"),
        ("--bucket", "9x9", "  bucket (--bucket): is '9x9', which this server does not offer; the nearest are "),
        ("--aspect", "99", "  aspect_ratio (--aspect): is 99.0; must be from 0.1 to 10.0"),
        ("--aspect", "wide", "  aspect_ratio (--aspect): 'wide' must be a number or look like 16:9"),
        ("--fit", "squeeze", "  fit_policy (--fit): 'squeeze' is none of crop, pad, stretch"),
        ("--out", "cat.avi", "  output_mime_type (--out): 'avi' is none of mp4, webm, mkv"),
        ("--negative", "x" * 5000, "  negative_prompt (--negative): has 5000 characters; must have at most "),
        ("--profile", "turbo", "  profile (--profile): is 'turbo'; must be one of exact, "),
        ("--solver", "heun", "  acceleration.solver (--solver): is 'heun'; must be one of "),
        (
            "--cache-threshold",
            "-1",
            "  acceleration.cache_threshold (--cache-threshold): is -1.0; must be from 0 to 10",
        ),
        ("--guidance-interval", "0.9:0.1", "  acceleration.guidance_start (--guidance-interval): is 0.9; must be at"),
        (
            "--guidance-interval",
            "0:3",
            "  acceleration.guidance_end (--guidance-interval): is 3.0; must be from 0 to 1",
        ),
    ],
)
def test_a_wrong_value_is_said_of_the_option_that_was_typed(
    simulated: RunningServer, tmp_path: Path, option: str, value: str, said: str
) -> None:
    words = ["generate", "instant", "--out", str(tmp_path / "x.mp4"), option, value, "--address", simulated.address]

    refused = CliRunner().invoke(app, words)

    assert refused.exit_code == 2
    assert said in refused.stderr


def test_pictures_that_are_none_are_said_of_their_options(simulated: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    words = ["--image", str(tmp_path / "a.png"), "--end-image", str(tmp_path / "a.png"), "--address", simulated.address]

    said = CliRunner().invoke(app, ["generate", "instant", *words]).stderr

    assert "  start_image (--image): " in said
    assert "  end_image (--end-image): " in said


def test_the_options_of_fields_are_options_of_the_command() -> None:
    shown = CliRunner().invoke(app, ["generate", "--help"], env=WIDE).stdout
    fields = {field.name for field in pb.GenerateRequest.DESCRIPTOR.fields}

    assert {option for option in FLAGS.values() if f"{option} " not in shown} == set()
    assert {name.partition(".")[0] for name in FLAGS} - fields == {"draft_bucket", "draft_steps"}


@pytest.mark.parametrize(
    ("script", "exit_code", "told"),
    [
        (
            [INVALID],
            2,
            {
                "code": "INVALID_ARGUMENT",
                "message": "frame_count: 50 is not 4k+1; seed: -1 is negative",
                "violations": [
                    {"field": "frame_count", "description": "50 is not 4k+1"},
                    {"field": "seed", "description": "-1 is negative"},
                ],
                "reason": "INVALID_ARGUMENT",
            },
        ),
        (
            [failure(code_pb2.UNAVAILABLE, "gone")],
            3,
            {"code": "UNAVAILABLE", "message": "gone", "violations": []},
        ),
        (
            [QUEUE_FULL],
            4,
            {
                "code": "RESOURCE_EXHAUSTED",
                "message": "8 jobs are waiting already",
                "violations": [],
                "reason": "QUEUE_FULL",
                "retry_after_seconds": 12.5,
            },
        ),
        (
            [BROKEN],
            6,
            {
                "code": "INTERNAL",
                "message": "the generation failed",
                "violations": [],
                "reason": "GENERATION_FAILED",
                "error_id": "e-77",
            },
        ),
        (
            [*chunks(DATA), completed(b"")],
            6,
            {"code": "DATA_LOSS", "message": "2000 bytes arrived of a file that has 0", "violations": []},
        ),
    ],
    ids=["invalid", "unavailable", "queue-full", "server-failed", "corrupt"],
)
def test_with_json_a_failure_is_the_last_event(
    run: Command, scripted: ScriptedVideoService, script: list[object], exit_code: int, told: dict[str, Any]
) -> None:
    scripted.script = [ACCEPTED, *script]

    result = run("generate", "a cat", "--json")

    assert result.exit_code == exit_code
    assert json.loads(result.stdout.splitlines()[0])["event"] == "accepted"
    failed = last_line(result)
    assert re.fullmatch("[0-9a-f]{32}", failed.pop("request_id"))
    assert failed == {"event": "error", **told}
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--fit", "squeeze"], "INVALID_ARGUMENT", "fit_policy: 'squeeze' is none of crop, pad, stretch"),
        (["--out", "missing/cat.mp4"], "ENOENT", "missing/cat.mp4: the folder does not exist"),
        (["--steps", "abc"], "INVALID_ARGUMENT", "Invalid value for '--steps': is 'abc'; must be a valid integer"),
        (["--out", "cat"], "INVALID_ARGUMENT", "Invalid value for --out: 'cat' has no suffix"),
        (["--unheard-of"], "INVALID_ARGUMENT", "No such option: --unheard-of"),
    ],
)
def test_what_is_refused_before_it_is_sent_is_said_in_json_as_well(
    run: Command, scripted: ScriptedVideoService, words: list[str], code: str, message: str
) -> None:
    result = run("generate", "a cat", "--json", *words)

    assert result.exit_code == 2
    assert scripted.requests == []
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["event"], told["code"]) == ("error", code)
    assert told["message"].startswith(message)
    assert "Error" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a cat"],
        ["info"],
        ["lint-prompt", "a cat"],
        ["bench"],
        ["batch", "jobs.jsonl"],
        ["replay", "cat.json"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_prints_json_prints_its_failure(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a cat"}\n')
    (tmp_path / "cat.json").write_text("no receipt")
    # In a process of its own: grpc.aio is made for one event loop a process.
    command = [sys.executable, "-c", MAIN, *words, "--json", "--address", "127.0.0.1:1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)

    told = json.loads(result.stdout)
    assert (told["event"], told["violations"]) == ("error", [])
    assert (result.returncode, told["code"]) == ((2, "INVALID_ARGUMENT") if "cat.json" in words else (3, "UNAVAILABLE"))


def test_without_json_a_failure_prints_nothing_on_stdout(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = [INVALID]

    assert run("generate", "a cat").stdout == ""
    assert run("generate", "a cat", "--steps", "abc").stdout == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--draft-steps", "4"], "'--draft-steps'"),
        (["--draft-bucket", "64x96"], "'--draft-bucket'"),
        (["--yes"], "'--yes'"),
        (["--open"], "'--open'"),
        (["--yes", "--draft-steps", "8"], "'--draft-steps' / '--yes'"),
    ],
)
def test_options_of_drafts_without_a_draft_are_refused(
    run: Command, scripted: ScriptedVideoService, words: list[str], named: str
) -> None:
    result = run("generate", "a cat", *words)

    assert result.exit_code == 2
    assert f"{named}: is for drafts; give --draft-first with it, or leave it out" in result.stderr
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--draft-steps", "0"], "Invalid value for '--draft-steps': is '0'; must be greater than or equal to 1"),
        (["--draft-steps", "201"], "  draft_steps (--draft-steps): is 201; must be from 1 to 200"),
        (["--draft-bucket", "9x9"], "  draft_bucket (--draft-bucket): is '9x9'; must be one of 96x160"),
    ],
)
def test_a_draft_that_cannot_be_is_said_of_its_own_options(
    run: Command, scripted: ScriptedVideoService, words: list[str], said: str
) -> None:
    sizes = [pb.Bucket(name="96x160", width_px=160, height_px=96, frame_counts=[13])]
    scripted.info = pb.GetServerInfoResponse(buckets=sizes, limits=pb.Limits(max_step_count=200))

    result = run("generate", "a cat", "--draft-first", *words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert scripted.requests == []


def test_a_file_whose_name_says_no_format_is_refused(run: Command, scripted: ScriptedVideoService) -> None:
    result = run("generate", "a cat", "--out", "cat")

    assert result.exit_code == 2
    assert "'cat' has no suffix to tell the format by; must be one of cat.mp4, cat.webm, cat.mkv" in result.stderr
    assert scripted.requests == []
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "a", "--steps", "1.5"], "'--steps': is '1.5'; must be a valid integer"),
        (["generate", "a", "--guidance", "high"], "'--guidance': is 'high'; must be a valid number"),
        (["batch", ".", "--concurrency", "99"], "'--concurrency': is '99'; must be less than or equal to 64"),
        (["generate", "a", "--timeout", "0"], "'--timeout': is '0'; must be greater than or equal to 0.001"),
    ],
)
def test_a_value_of_another_type_or_range_is_said_with_what_is_allowed(
    run: Command, words: list[str], said: str
) -> None:
    result = run(*words)

    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("out", ["again", "again.webm"])
def test_a_replay_is_not_kept_under_the_suffix_of_another_format(
    simulated: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    address = ["--address", simulated.address]
    made = ["generate", "instant", "--steps", "2", "--bucket", "64x96", "--embed-prompt", "--out", "cat.mp4"]
    assert CliRunner().invoke(app, [*made, *address]).exit_code == 0

    result = CliRunner().invoke(app, ["replay", "cat.mp4", "--out", out, *address], env=WIDE)

    assert result.exit_code == 2
    assert f"--out: is '{out}'; must end in .mp4, the recorded video's format" in result.stderr
    assert os.listdir() == ["cat.mp4"]
