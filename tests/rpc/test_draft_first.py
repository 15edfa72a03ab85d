"""`generate --draft-first` against a scripted service: what is sent, what is shown, who is asked."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from tests.rpc.command import MAIN, Command
from tests.rpc.scripted import BROKEN, PATIENCE, ScriptedVideoService, success

pytest_plugins = ("tests.rpc.callers",)

DATA = b"no video" * 250
SIZES = [("768x1344", 768, 1344), ("384x672", 384, 672), ("672x384", 672, 384)]


@pytest.fixture
def run(run: Command, scripted: ScriptedVideoService) -> Command:
    scripted.script = success(DATA)
    scripted.info = pb.GetServerInfoResponse(
        buckets=[pb.Bucket(name=n, width_px=w, height_px=h, frame_counts=[25, 49]) for n, h, w in SIZES]
    )
    return partial(run, "generate", "a cat blinks")


def test_with_yes_the_final_follows_with_the_same_seed_and_prompt(run: Command, scripted: ScriptedVideoService) -> None:
    result = run("--draft-first", "--yes", "--bucket", "768x1344", "--steps", "40", "--out", "cat.webm")

    assert result.exit_code == 0, result.stderr
    draft, final = scripted.requests
    assert (draft.bucket, draft.step_count, final.bucket, final.step_count) == ("384x672", 8, "768x1344", 40)
    assert draft.HasField("seed")
    assert (draft.seed, draft.prompt) == (final.seed, final.prompt)
    assert draft.output_mime_type == final.output_mime_type == "video/webm"
    assert sorted(os.listdir()) == ["cat.draft.webm", "cat.webm"]
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["draft cat.draft.webm", "cat.webm"]


def test_where_nobody_can_answer_it_names_the_command_that_goes_on(
    run: Command, scripted: ScriptedVideoService
) -> None:
    result = run("--draft-first", "--draft-steps", "4", "--bucket", "768x1344", "--embed-prompt", "--out", "my cat.mp4")

    assert result.exit_code == 8
    assert os.listdir() == ["my cat.draft.mp4"]
    (draft,) = scripted.requests
    assert draft.step_count == 4
    command = shlex.split(result.stderr.splitlines()[-1])
    assert command[:3] == ["easyanim-client", "generate", "a cat blinks"]
    assert not [word for word in command if "draft" in word]

    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    final = scripted.requests[1]
    assert (final.seed, final.bucket, final.embed_prompt) == (draft.seed, "768x1344", True)
    assert not final.HasField("step_count")


def test_the_command_that_goes_on_takes_a_prompt_that_begins_with_dashes(
    scripted: ScriptedVideoService, run: Command
) -> None:
    words = ["generate", "--draft-first", "--frames", "25", "--address", scripted.address, "--", "-- a cat"]
    command = shlex.split(CliRunner().invoke(app, words).stderr.splitlines()[-1])

    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    assert [(sent.prompt, sent.frame_count) for sent in scripted.requests] == [("-- a cat", 25)] * 2


def test_a_draft_that_fails_makes_no_final(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = [BROKEN]

    assert run("--draft-first", "--yes").exit_code == 6
    assert len(scripted.requests) == 1


def test_the_drafts_size_and_the_given_seed_are_taken(run: Command, scripted: ScriptedVideoService) -> None:
    run("--draft-first", "--yes", "--draft-bucket", "672x384", "--seed", "5", "--frames", "25")

    assert [(sent.bucket, sent.seed, sent.frame_count) for sent in scripted.requests] == [
        ("672x384", 5, 25),
        ("", 5, 25),
    ]
    assert run("--draft-first", "--draft-bucket", "9x9").exit_code == 2


@pytest.mark.parametrize(
    ("answer", "code", "files"),
    [("y\n", 0, ["out.draft.mp4", "out.mp4"]), ("n\n", 8, ["out.draft.mp4"]), ("\x04", 8, ["out.draft.mp4"])],
    ids=["yes", "no", "end of input"],
)
def test_on_a_terminal_the_answer_decides(
    run: Command, scripted: ScriptedVideoService, tmp_path: Path, answer: str, code: int, files: list[str]
) -> None:
    terminal, side = pty.openpty()
    words = ["generate", "a cat blinks", "--draft-first", "--address", scripted.address]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], cwd=tmp_path, stdin=side, stdout=subprocess.PIPE, stderr=side
    ) as process:
        os.close(side)
        shown = b""
        while b"Make the final video?" not in shown:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # it has closed its side
                pytest.fail(f"ended with {process.wait(PATIENCE)} instead of asking: {shown.decode()}")
        os.write(terminal, answer.encode())
        assert process.wait(PATIENCE) == code
    os.close(terminal)
    assert sorted(os.listdir(tmp_path)) == files
