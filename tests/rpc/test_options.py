"""Every field of a request is one entry of the client's table, and can be said in all four ways that there are."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import Result

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands.shared import FLAGS
from easyanim_client.messages import receipt
from easyanim_client.options import OPTIONS, GenerateOptions
from easyanim_client.request import build_request
from easyanim_server.catalog import FAMILIES
from tests.rpc.scripted import ScriptedVideoService, success

Run = Callable[..., Result]

pytest_plugins = ("tests.rpc.callers",)

DATA = b"a video"
PARAMETERS = pb.Parameters(
    prompt="a cat", negative_prompt="ugly", bucket="384x672", frame_count=25, step_count=5, guidance_scale=1.5, seed=7,
    frame_rate_fps=16, output_mime_type="video/webm", fit_policy=pb.FIT_POLICY_PAD, profile="fast", solver="unipc",
    cache_threshold=0.25, guidance_start=0.25, guidance_end=0.75, background_color="#ffee00", guidance_rescale=0.5,
)  # fmt: skip
REQUEST = pb.GenerateRequest(
    prompt="a cat", start_image=b"first", end_image=b"last", negative_prompt="ugly", bucket="384x672", frame_count=25,
    fit_policy=pb.FIT_POLICY_PAD, step_count=5, guidance_scale=1.5, guidance_rescale=0.5, seed=7, frame_rate_fps=16,
    output_mime_type="video/webm", embed_prompt=True, profile="fast", background_color="#ffee00",
    acceleration=pb.Acceleration(solver="unipc", cache_threshold=0.25, guidance_start=0.25, guidance_end=0.75),
)  # fmt: skip
ARGUMENTS: dict[str, Any] = {
    "prompt": "a cat", "start_image": "a.png", "end_image": "b.png", "negative_prompt": "ugly", "bucket": "384x672",
    "frames": 25, "fit": "pad", "background_color": "#ffee00", "steps": 5, "guidance": 1.5, "seed": 7, "fps": 16,
    "guidance_rescale": 0.5,
    "format": "webm", "embed_prompt": True, "profile": "fast", "solver": "unipc", "cache_threshold": 0.25,
    "guidance_interval": "0.25:0.75",
}  # fmt: skip
"""All but `aspect_ratio`, which takes the place of `bucket`."""


def leaves(message: Any, within: str = "") -> set[str]:
    """Fields of a type of message, those of messages in it by their path."""
    found = set()
    for field in message.fields:
        inner = leaves(field.message_type, f"{field.name}.") if field.message_type else {field.name}
        found |= {within + name for name in inner}
    return found


def given(request: pb.GenerateRequest) -> set[str]:
    """Fields that a request has."""
    outer = {field.name for field, _ in request.ListFields() if not field.message_type}
    return outer | {f"acceleration.{field.name}" for field, _ in request.acceleration.ListFields()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"first")
    Path("b.png").write_bytes(b"last")


def test_the_table_has_every_field_of_the_contract_once() -> None:
    fields = [field for option in OPTIONS for field in option.fields]

    assert sorted(fields) == sorted(leaves(pb.GenerateRequest.DESCRIPTOR))
    assert given(REQUEST) == {*fields} - {"aspect_ratio"}, "this file tries every field"
    assert [option.name for option in OPTIONS] == ["prompt", *GenerateOptions.__annotations__]


def test_help_and_refusals_name_every_solver_that_a_published_model_has() -> None:
    (option,) = (item for item in OPTIONS if item.flag == "--solver")
    known = {solver for family in FAMILIES for solver in family.solvers}

    assert set(re.findall(r"\w+", option.words)) - {"or"} == known
    assert known <= set(re.findall(r"\w+", option.help))


def test_every_field_can_be_said_from_a_program() -> None:
    assert build_request(**ARGUMENTS) == REQUEST
    assert build_request("a cat", aspect_ratio="3:2").aspect_ratio == 1.5


def test_every_field_can_be_said_in_a_shell(run: Run, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    words = ["generate", "a cat", "--out", "cat.webm"]
    for option in OPTIONS:
        if option.help and option.name != "aspect_ratio":
            value = ARGUMENTS[option.name]
            words += [option.flag] if value is True else [option.flag, str(value)]

    assert run(*words).exit_code == 0
    assert run("generate", "a cat", "--aspect", "3:2", "--out", "dog.mp4").exit_code == 0

    assert scripted.requests[0] == REQUEST
    assert scripted.requests[1].aspect_ratio == 1.5
    assert FLAGS.keys() >= {field for option in OPTIONS for field in option.fields} - {"prompt"}


def test_every_field_can_be_said_in_a_batch_file(run: Run, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    lines = [ARGUMENTS, {"prompt": "a cat", "aspect_ratio": "3:2", "seed": 1}]
    Path("jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    result = run("batch", "jobs.jsonl", "--concurrency", "1")

    assert result.exit_code == 0, result.stderr
    assert scripted.requests[0] == REQUEST
    assert scripted.requests[1].aspect_ratio == 1.5


def test_the_flags_of_batch_are_defaults_of_its_jobs(run: Run, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    Path("jobs.jsonl").write_text('{"id": "cat"}\n')
    words, expected = [], set()
    for option in OPTIONS:
        if option.batch and option.name != "aspect_ratio":
            value = ARGUMENTS[option.name]
            words += [option.flag] if value is True else [option.flag, str(value)]
            expected |= {*option.fields}

    assert run("batch", "jobs.jsonl", *words).exit_code == 0

    (request,) = scripted.requests
    assert given(request) == expected | {"seed"}
    assert all(getattr(request, field) == getattr(REQUEST, field) for field in expected)


def test_a_replay_says_every_field_again() -> None:
    recording = ea.Recording(
        receipt=receipt(pb.Receipt(parameters=PARAMETERS)),
        has_prompt=True,
        has_negative_prompt=True,
        prompt_sha256="",
        negative_prompt_sha256="",
        file_sha256="",
        embedded_prompt=True,
    )

    arguments = recording.arguments(start_image="a.png", end_image="b.png", anyway=True)

    assert build_request(**arguments) == REQUEST
    assert arguments.keys() == {option.name for option in OPTIONS} - {"aspect_ratio"}


@pytest.mark.parametrize("client", [ea.Client, ea.AsyncClient])
def test_help_shows_every_option_with_its_type_and_default(client: type) -> None:
    shown = inspect.signature(client.generate).parameters  # type: ignore[attr-defined]

    assert [*shown][:3] == ["self", "prompt", "start_image"]
    for name, hint in get_type_hints(GenerateOptions).items():
        assert shown[name].annotation == hint
        assert shown[name].default == {"fit": "crop", "embed_prompt": False}.get(name)


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        ea.Client("localhost:1").generate("a cat", step=5)  # type: ignore[call-arg]
