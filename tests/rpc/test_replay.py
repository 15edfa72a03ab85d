"""Videos made again from their own metadata, against a server whose engine is simulated but whose files are real."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from easyanim_client.metadata import read_comment
from tests.rpc.command import Command
from tests.rpc.scripted import ScriptedVideoService, success
from tests.servers import RunningServer

pytest_plugins = ("tests.rpc.callers",)

PROMPT = "instant, a cat blinks"


@pytest.fixture
def run(simulated: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, png: bytes) -> Command:
    """Runs commands against the simulated server, in a folder with cat.png."""
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(png)

    def invoke(*words: str, address: str = simulated.address) -> Result:
        return CliRunner().invoke(app, [*words, "--quiet", "--address", address])

    return invoke


def made(run: Command, *words: str, out: str = "cat.mp4", prompt: str = PROMPT) -> None:
    result = run("generate", prompt, "--steps", "2", "--bucket", "64x96", "--out", out, *words)
    assert result.exit_code == 0, result.stderr


def last_lines(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if "[info" not in line]


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_a_video_with_its_prompt_is_replayed_from_the_file_alone(run: Command, suffix: str) -> None:
    made(run, "--embed-prompt", out=f"cat.{suffix}")

    result = run("replay", f"cat.{suffix}", "--out", f"again.{suffix}")

    assert result.exit_code == 0, result.stdout + result.stderr
    assert [line.split(",")[0] for line in last_lines(result)] == ["latents  the same", "bytes    the same"]
    assert Path(f"again.{suffix}").read_bytes() == Path(f"cat.{suffix}").read_bytes()


def test_the_background_is_that_of_the_recording(run: Command, scripted: ScriptedVideoService) -> None:
    made(run, "--embed-prompt", "--image", "cat.png", "--background", "#FFEE00")
    scripted.script = success(b"video")

    assert run("replay", "cat.mp4", "--image", "cat.png").exit_code == 0
    run("replay", "cat.mp4", "--image", "cat.png", "--anyway", address=scripted.address)
    (sent,) = scripted.requests
    assert sent.background_color == "#ffee00"


def test_without_its_prompt_it_says_what_to_give_and_checks_what_is_given(run: Command) -> None:
    made(run, "--image", "cat.png", "--negative", "my own words")
    assert PROMPT not in (read_comment("cat.mp4") or "")

    lacking = run("replay", "cat.mp4")
    assert lacking.exit_code == 2
    for line, field, option in zip(
        lacking.stderr.splitlines()[1:],
        ["prompt", "negative_prompt", "start_image"],
        ["(--prompt, or --receipt)", "(--negative, or --receipt)", "(--image)"],
        strict=True,
    ):
        assert line.startswith(f"  {field}: is not in the file")
        assert line.endswith(option)

    Path("dog.png").write_bytes(Path("cat.png").read_bytes() + b"\0")
    wrong = run("replay", "cat.mp4", "--prompt", "instant dog", "--negative", "my own words", "--image", "dog.png")
    assert wrong.exit_code == 2
    assert [line.split(" is not the recorded one")[0] for line in wrong.stderr.splitlines()[1:]] == [
        "  prompt:",
        "  start_image:",
    ]

    right = run("replay", "cat.mp4", "--prompt", PROMPT, "--negative", "my own words", "--image", "cat.png")
    assert right.exit_code == 0, right.stderr


def test_a_picture_for_a_video_that_had_none_is_refused(run: Command) -> None:
    made(run, "--embed-prompt")

    assert "the video was made without one" in run("replay", "cat.mp4", "--image", "cat.png").stderr


def test_nothing_is_generated_before_everything_is_checked(run: Command, scripted: ScriptedVideoService) -> None:
    made(run, "--embed-prompt")
    scripted.script = success(b"video")

    other_prompt = run("replay", "cat.mp4", "--prompt", "a dog", address=scripted.address)
    assert other_prompt.exit_code == 2
    scripted.info = pb.GetServerInfoResponse(
        model=pb.Model(name="another", fingerprint="1" * 64, attention_mode="diffusers", dtype="float32")
    )
    other_model = run("replay", "cat.mp4", address=scripted.address)
    assert other_model.exit_code == 2
    assert "the server (another) would make another video: model_fingerprint is '1111" in other_model.stderr
    assert "attention_mode is 'diffusers', was 'original'" in other_model.stderr
    assert scripted.requests == []


def test_anyway_makes_it_and_says_what_differs(run: Command, scripted: ScriptedVideoService) -> None:
    made(run, "--embed-prompt")
    scripted.script = success(b"video")

    result = run("replay", "cat.mp4", "--anyway", "--out", "other.mp4", address=scripted.address)

    assert result.exit_code == 7
    assert last_lines(result)[0].startswith("latents  differ: ")
    assert "         device was simulated, is a card" in last_lines(result)
    (sent,) = scripted.requests
    assert (sent.prompt, sent.step_count, sent.bucket, sent.frame_count) == (PROMPT, 2, "64x96", 9)
    assert sent.embed_prompt


def test_a_file_that_was_changed_has_the_latents_but_not_the_bytes(run: Command) -> None:
    made(run, "--embed-prompt")
    with open("cat.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")

    result = run("replay", "cat.mp4", "--json")

    assert result.exit_code == 7
    verdict = json.loads(last_lines(result)[-1])
    assert (verdict["latents_match"], verdict["bytes_match"], verdict["path"]) == (True, False, None)
    assert sorted(os.listdir()) == ["cat.mp4", "cat.png"]


def test_a_saved_receipt_brings_the_prompts_and_is_enough_without_the_video(run: Command) -> None:
    made(run, "--image", "cat.png", "--receipt", "cat.json")

    assert run("replay", "cat.mp4", "--receipt", "cat.json", "--image", "cat.png").exit_code == 0
    Path("cat.mp4").unlink()
    assert run("replay", "cat.json", "--image", "cat.png", "--out", "again.mp4").exit_code == 0
    assert PROMPT not in (read_comment("again.mp4") or ""), "what was private stays so"


def test_a_receipt_of_another_video_is_refused(run: Command) -> None:
    made(run)
    made(run, "--receipt", "other.json", out="other.mp4")

    assert "receipt of another video" in run("replay", "cat.mp4", "--receipt", "other.json").stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp4", b"nothing", "no receipt in its metadata"),
        ("a.json", b"{}", "no receipt of easyanim"),
        ("a.json", b"[1]", "no receipt of easyanim"),
        ("a.json", b"\xff\xfe", "no receipt of easyanim"),
        ("a.json", b'{"easyanim": 99}', "has form 99; this client reads 1"),
        ("a.json", b'{"easyanim": 1, "receipt": {"parameters": {"seed": "x"}}}', "no receipt of easyanim"),
    ],
)
def test_a_file_without_a_receipt_is_named(run: Command, name: str, content: bytes, words: str) -> None:
    Path(name).write_bytes(content)

    result = run("replay", name)

    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


async def test_the_receipt_in_the_file_is_the_streams(simulated: RunningServer, tmp_path: Path, png: bytes) -> None:
    async with ea.AsyncClient(simulated.address) as client:
        video = await client.generate(
            PROMPT, start_image=png, steps=2, bucket="64x96", embed_prompt=True, save_to=tmp_path / "cat.webm"
        ).result()

    recording = ea.Recording.load(tmp_path / "cat.webm")
    assert recording.receipt == video.receipt
    assert recording.file_sha256 == video.sha256
    assert len(video.receipt.latents_sha256) == len(video.receipt.start_image_sha256) == 64
    assert video.receipt.end_image_sha256 == ""
