"""Prompt help over a real channel: in the accepted event, and on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.commands import app
from tests.conftest import Stub
from tests.engines import SIMULATED
from tests.rpc.callers import Caller
from tests.servers import RunningServer, settings

MISUSED = "instant street with no people, a comic look"
pytest_plugins = ("tests.rpc.callers",)


def test_accepted_says_what_would_be_misread_and_changes_nothing(stub: Stub) -> None:
    accepted = next(stub.Generate(pb.GenerateRequest(prompt=MISUSED, step_count=1))).accepted

    assert [item.rule for item in accepted.prompt_warnings] == ["negation", "wanted_and_avoided"]
    assert accepted.prompt_warnings[0].excerpt == "no people"
    assert accepted.parameters.prompt == MISUSED


def test_without_guidance_the_negative_prompt_is_no_reason_to_warn(stub: Stub) -> None:
    request = pb.GenerateRequest(prompt="instant hero, a comic look", step_count=1, guidance_scale=1)

    assert not next(stub.Generate(request)).accepted.prompt_warnings


async def test_a_prompt_is_read_without_generating(
    kind_of_caller: Callable[..., Caller], simulated: RunningServer
) -> None:
    caller = kind_of_caller(simulated.address)
    try:
        lint = caller.client.lint_prompt
        if isinstance(caller.client, ea.AsyncClient):
            reading, english = await lint("一只猫，没有人物"), await lint("word " * 300, "")
        else:
            reading, english = lint("一只猫，没有人物"), lint("word " * 300, "")
    finally:
        await caller.close()

    assert [(item.rule, item.excerpt) for item in reading.warnings] == [("negation", "没有人物")]
    assert reading.negative_prompt.startswith("扭曲的身体")
    assert (english.tokens, english.max_tokens, english.truncated, english.negative_prompt) == (300, 256, True, "")
    assert english.warnings[0].rule == "too_long"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 4_001}, "prompt"),
        ({"prompt": "a cat blinks", "negative_prompt": "x" * 4_001}, "negative_prompt"),
    ],
    ids=["empty", "long", "negative"],
)
def test_a_text_that_generate_would_refuse_is_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.LintPrompt(pb.LintPromptRequest(**fields))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(f"{field}: ")


def test_before_the_model_is_loaded_the_caller_is_told_to_come_again(
    connect: Callable[[str], Stub], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    with RunningServer(settings(model="simulated:waits", cache_dir=str(folder)), SIMULATED, wait=False) as server:
        with pytest.raises(grpc.RpcError) as caught:
            connect(server.address).LintPrompt(pb.LintPromptRequest(prompt="a cat blinks"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        folder.mkdir()
        server.wait_for("SERVING")


def test_the_command_tells_it_in_lines_or_as_json(simulated: RunningServer) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["lint-prompt", *words, "--address", simulated.address])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert run("steam rises slowly from a cup") == "6 of 256 tokens\nnothing to say about it\n"
    first, negation, comic = run(MISUSED).splitlines()
    assert first == "8 of 256 tokens"
    assert negation.startswith("negation: the prompt says what shall not be there")
    assert negation.endswith("('no people')")
    assert comic.startswith("wanted_and_avoided: 'comic' stands in the prompt")
    assert "too long" in run("word " * 300)
    assert run(MISUSED, "--negative", "") == f"{first}\n{negation}\n"
    assert json.loads(run("小猫在草地上，不要下雨", "--json"))["warnings"][0]["excerpt"] == "不要下雨"
