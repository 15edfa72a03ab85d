"""EasyAnimate V5, and V5.1 from text alone, as callers meet them: the authors' frames, tokenizers, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from safetensors.torch import load_file
from typer.testing import CliRunner

from easyanim.v1 import video_pb2 as pb
from easyanim_client import Client, Tokenizer
from easyanim_client.commands import app
from tests.conftest import Stub
from tests.engines import GivenNoiseEngine
from tests.servers import RunningServer, settings
from tests.video_reader import read

START_PICTURE = (Path(__file__).parents[1] / "fixtures" / "upstream" / "v5-inp-i2v" / "start.png").read_bytes()
FIXTURES = Path(__file__).parents[1] / "fixtures" / "upstream"
ENGINE = "tests.engines:GivenNoiseEngine.load"


def serve(model: str) -> RunningServer:
    given = settings(
        model=str(FIXTURES / "models" / model), buckets="32x64x9,48x32x9,48x48x9", device="cpu", dtype="float32"
    )
    return RunningServer(given, ENGINE)


@pytest.fixture(scope="module")
def inp() -> Iterator[Stub]:
    with serve("v5-inp") as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


@pytest.fixture(scope="module")
def t2v_server() -> Iterator[RunningServer]:
    with serve("v5-t2v") as server:
        yield server


@pytest.fixture
def t2v(t2v_server: RunningServer) -> Iterator[Stub]:
    with grpc.insecure_channel(t2v_server.address) as channel:
        yield Stub(channel)


@pytest.fixture(scope="module")
def v51_t2v() -> Iterator[Stub]:
    with serve("v51-t2v") as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


MODELS = {"v5-inp-i2v": "inp", "v5-inp-i2v-end": "inp", "v5-t2v": "t2v", "v51-t2v": "v51_t2v"}
"""The fixture that serves each case."""


def request_of(name: str) -> pb.GenerateRequest:
    folder = FIXTURES / name
    given = json.loads((folder / "request.json").read_text())
    fields: dict[str, Any] = {
        f"{key}_image": (folder / given[key]).read_bytes() for key in ("start", "end") if given.get(key)
    }
    return pb.GenerateRequest(
        prompt=given["prompt"],
        negative_prompt=given["negative_prompt"],
        bucket=f"{given['height']}x{given['width']}",
        step_count=given["steps"],
        guidance_scale=given["guidance_scale"],
        guidance_rescale=given.get("guidance_rescale", 0.0),
        seed=GivenNoiseEngine.CASES.index(name),
        output_mime_type="video/x-matroska",
        **fields,
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_file_has_the_authors_frames(request: pytest.FixtureRequest, name: str) -> None:
    stub: Stub = request.getfixturevalue(MODELS[name])
    content, last = b"", pb.GenerateResponse()
    for last in stub.Generate(request_of(name)):
        content += last.chunk.data

    expected = load_file(FIXTURES / name / "expected.safetensors")["video_u16"][0].permute(1, 2, 3, 0).numpy() / 65535
    assert np.abs(read(content).frames - expected * 255).max() < 0.5 + 255e-3
    done = last.completed.receipt.parameters
    assert done.solver == ("euler" if name == "v51-t2v" else "ddim")
    assert done.guidance_rescale == pytest.approx(0.3 if name == "v5-inp-i2v-end" else 0.0)


def test_an_image_to_video_model_makes_videos_from_text_alone(inp: Stub) -> None:
    request = request_of("v5-inp-i2v")
    request.ClearField("start_image")
    answers = list(inp.Generate(request))

    frames = read(b"".join(answer.chunk.data for answer in answers)).frames
    (accepted,) = (answer.accepted for answer in answers if answer.HasField("accepted"))
    assert accepted.parameters.task == "text"
    assert frames.shape == (9, 32, 64, 3)
    stored = load_file(FIXTURES / "v5-inp-i2v" / "expected.safetensors")["video_u16"][0].permute(1, 2, 3, 0).numpy()
    assert np.abs(frames - stored / 257).max() > 2, "the same video as with the picture"


def test_the_server_says_what_the_loaded_model_is(inp: Stub, t2v: Stub) -> None:
    given, text = (stub.GetServerInfo(pb.GetServerInfoRequest()) for stub in (inp, t2v))

    assert [(item.name, item.max_token_count) for item in given.tokenizers] == [("bert", 77), ("t5", 256)]
    assert list(given.solvers) == ["ddim", "unipc", "dpmpp_2m"]
    assert list(given.tasks) == ["start", "start_end", "text"]
    assert list(text.tasks) == ["text"]
    assert (given.defaults.step_count, given.defaults.guidance_scale) == (50, 6.0)
    exact = given.profiles[0]
    assert (exact.name, exact.step_count, exact.acceleration.solver) == ("exact", 50, "ddim")


def test_client_and_command_say_what_the_loaded_model_is(t2v_server: RunningServer) -> None:
    with Client(t2v_server.address) as client:
        info, reading = client.info(), client.lint_prompt("x y " * 60 + "the end")

    assert (info.model.family, info.tasks) == ("easyanimate-v5", ("text",))
    assert info.tokenizers == (Tokenizer("bert", 77), Tokenizer("t5", 256))
    assert info.solvers == ("ddim", "unipc", "dpmpp_2m")
    assert info.defaults is not None
    assert info.defaults.steps == 50
    counts = {item.name: item for item in reading.tokenizers}
    assert counts["bert"].tokens > counts["bert"].max_tokens == 77
    assert (counts["t5"].tokens, counts["t5"].max_tokens) == (reading.tokens, reading.max_tokens)

    shown = CliRunner().invoke(app, ["info", "--address", t2v_server.address]).stdout.splitlines()
    assert any(line.strip().startswith("easyanimate-v5, transformer of") for line in shown)
    assert {"tasks     text", "prompts   77 tokens by bert, 256 tokens by t5", "solvers   ddim, unipc, dpmpp_2m"} <= {
        *shown
    }
    read = CliRunner().invoke(app, ["lint-prompt", "a dog", "--address", t2v_server.address]).stdout.splitlines()
    assert read[0].endswith("of 256 tokens")
    assert [line.split(":")[0].strip() for line in read[1:3]] == ["t5", "bert"]
    assert read[2].endswith("of 77")


def test_a_prompt_is_counted_by_both_tokenizers(t2v: Stub) -> None:
    short = t2v.LintPrompt(pb.LintPromptRequest(prompt="a dog"))
    long = t2v.LintPrompt(pb.LintPromptRequest(prompt="x y " * 60 + "the end"))

    assert {item.name: item.max_token_count for item in short.tokenizers} == {"t5": 256, "bert": 77}
    assert [item.rule for item in short.prompt_warnings] == ["too_short"]
    counts = {item.name: item.token_count for item in long.tokenizers}
    assert counts["bert"] > 77
    assert long.prompt_token_count == counts["t5"] < 256
    assert not long.prompt_truncated
    (warning,) = (item for item in long.prompt_warnings if item.rule == "long_for_one_encoder")
    assert "bert, which reads 77" in warning.message
    assert warning.excerpt.startswith("y x y")


@pytest.mark.parametrize(
    ("changed", "field", "allowed"),
    [
        (
            {"start_image": START_PICTURE},
            "start_image",
            "the model's tasks are text",
        ),
        ({"end_image": START_PICTURE}, "end_image", "the model's tasks are text"),
        ({"acceleration": pb.Acceleration(solver="euler")}, "acceleration.solver", "ddim, unipc, dpmpp_2m"),
        ({"guidance_rescale": 1.5}, "guidance_rescale", "must be from 0 to 1"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_field(
    t2v: Stub, changed: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(t2v.Generate(pb.GenerateRequest(prompt="a cat", **changed)))

    assert isinstance(refused.value, grpc.Call)
    status = rpc_status.from_call(refused.value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    assert any(item.Unpack(details) for item in status.details)
    assert [(item.field, allowed in item.description) for item in details.field_violations] == [(field, True)]
