"""What `easyanim-client info` says of a server's queue and of its model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from tests.rpc.scripted import ScriptedVideoService

pytest_plugins = ("tests.rpc.callers",)

RUNNING = pb.Activity(job_id="a", phase=pb.PHASE_DENOISE, completed_count=3, total_count=35)


def told(scripted: ScriptedVideoService, command: str = "info", *words: str) -> str:
    result = CliRunner().invoke(app, [command, *words, "--address", scripted.address], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("activity", "places"),
    [
        ([], "0 of 2 places"),
        ([RUNNING], "1 running, 0 of 2 places"),
        ([RUNNING, pb.Activity(job_id="b"), pb.Activity(job_id="c")], "1 running, 2 of 2 places"),
        ([pb.Activity(job_id="b")], "1 of 2 places"),
    ],
)
def test_places_in_the_queue_are_taken_by_those_that_wait_alone_as_in_top(
    scripted: ScriptedVideoService, activity: list[pb.Activity], places: str
) -> None:
    scripted.info = pb.GetServerInfoResponse(
        version="0.1.0",
        state=pb.STATE_SERVING,
        limits=pb.Limits(max_queued_count=2),
        job_count=len(activity),
        activity=activity,
    )

    assert told(scripted).splitlines()[0] == f"easyanim  0.1.0, serving, {places} in the queue taken"
    assert f"queue  {places.removeprefix('1 running, ')} taken" in told(scripted, "top", "--once")


@pytest.mark.parametrize(("count", "shown"), [(7_100_000_000, "7.10 B"), (3_050_000, "3.05 M")])
def test_the_count_of_parameters_is_said_to_be_the_transformers_in_a_unit_that_suits_it(
    scripted: ScriptedVideoService, count: int, shown: str
) -> None:
    model = pb.Model(transformer_parameter_count=count, dtype="float32", attention_mode="original", device="cpu")
    scripted.info = pb.GetServerInfoResponse(model=model)

    line = f"          transformer of {shown} parameters, float32, original attention, on cpu"
    assert line in told(scripted).splitlines()


def test_tasks_of_the_model_are_shown_whatever_they_are_called(scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(tasks=["camera", "text"])

    assert "tasks     camera, text" in told(scripted).splitlines()
    assert json.loads(told(scripted, "info", "--json"))["tasks"] == ["camera", "text"]


def test_the_model_is_shown_with_family_tokenizers_and_solvers(scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(
        model=pb.Model(family="easyanimate-v5", transformer_parameter_count=7_100_000_000, device="cpu"),
        tokenizers=[pb.Tokenizer(name="bert", max_token_count=77), pb.Tokenizer(name="t5", max_token_count=256)],
        solvers=["ddim", "unipc"],
    )

    lines = told(scripted).splitlines()
    assert any(line.startswith("          easyanimate-v5, transformer of 7.10 B parameters") for line in lines)
    assert "prompts   77 tokens by bert, 256 tokens by t5" in lines
    assert "solvers   ddim, unipc" in lines
    info = json.loads(told(scripted, "info", "--json"))
    assert info["model"]["family"] == "easyanimate-v5"
    assert info["tokenizers"] == [{"name": "bert", "max_tokens": 77}, {"name": "t5", "max_tokens": 256}]
    assert info["solvers"] == ["ddim", "unipc"]


def test_an_older_server_says_nothing_of_its_model_and_nothing_is_shown(scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(model=pb.Model(name="m", device="cpu"))

    lines = told(scripted).splitlines()
    assert lines[2].startswith("          transformer of")
    assert not [line for line in lines if line.startswith(("tasks", "prompts", "solvers"))]
