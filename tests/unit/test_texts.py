"""Texts that people edit may begin with a byte-order mark, which is none of their content."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_client.batch_jobs import read_jobs
from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.engine.weights.contents import read_object
from easyanim_server.rpc.from_proto import check_prompts, to_job
from tests.e2e.processes import ROOT
from tests.servers import settings

MARK = "\ufeff"


def test_of_a_text_file_beside_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    (tmp_path / "a.txt").write_text(f"{MARK}steam rises\n", encoding="utf-8")

    (job,) = read_jobs(tmp_path, {})
    assert job.arguments["prompt"] == "steam rises"


@pytest.mark.parametrize("first", ["", "\n"], ids=["a job", "an empty line"])
def test_of_a_file_of_jobs(tmp_path: Path, first: str) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(MARK + first + json.dumps({"prompt": "steam rises"}), encoding="utf-8")

    (job,) = read_jobs(file, {})
    assert job.arguments["prompt"] == "steam rises"


def test_of_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "easyanim.toml"
    file.write_text(f"{MARK}queue_size = 3\n", encoding="utf-8")

    assert Settings.load({}, file).queue_size == 3


def test_of_a_models_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(f'{MARK}{{"patch_size": 2}}', encoding="utf-8")

    assert read_object(file) == {"patch_size": 2}


async def test_of_a_request() -> None:
    request = pb.GenerateRequest(prompt=f"{MARK}steam rises", negative_prompt=f"{MARK}blurry")

    job = await to_job(request, settings(), EASYANIMATE_V51)
    assert (job.prompt, job.negative_prompt) == ("steam rises", "blurry")
    with pytest.raises(InvalidArgument, match="prompt: is empty"):
        check_prompts(pb.LintPromptRequest(prompt=MARK), settings())


def test_every_text_is_read_so() -> None:
    wrong = []
    for folder in ("client", "server", "tools"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "read_text":
                    given = {item.arg: ast.unparse(item.value) for item in node.keywords}
                    if given.get("encoding") != "'utf-8-sig'":
                        wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "read with encoding='utf-8-sig'"
