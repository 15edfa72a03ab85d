"""Every family computes what the authors' own modules computed; see tests/fixtures/README.md."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dev import upstream_check
from dev.upstream_check import TOLERANCES, beyond_tolerance, compare, open_engine
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.job import Picture
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v5.text import PromptIds
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.families.easyanimate_v51.vae_attention import AttentiveMidBlock

FIXTURES = Path(__file__).parents[1] / "fixtures" / "upstream"
CASES = {case.folder.name: case for case in upstream_check.cases(FIXTURES)}

engine_of = cache(open_engine)
"""One engine a checkpoint, whose weights no test changes."""


def pipeline_of(engine: Engine) -> EasyAnimatePipeline:
    assert isinstance(engine.pipeline, EasyAnimatePipeline)
    return engine.pipeline


@pytest.mark.parametrize("name", CASES)
def test_text_one_forward_every_step_and_the_frames_are_the_authors(name: str) -> None:
    case = CASES[name]

    found = compare(case, engine_of(case.model))

    assert not beyond_tolerance(found), found
    assert found.keys() >= TOLERANCES.keys() - {"given"}
    assert ("given" in found) == (case.request["task"] == "i2v")


@pytest.mark.parametrize("name", ["v5-inp-i2v", "v5-t2v"])
def test_both_tokenizers_read_the_authors_tokens(name: str) -> None:
    case = CASES[name]
    expected, job = case.expected(), case.job()
    bert, t5 = PromptIds.bert(case.model / "tokenizer"), PromptIds.t5(case.model / "tokenizer_2")

    assert (bert.limit, t5.limit) == (77, 256)
    for prompt, stored in ((job.prompt, "prompt"), (job.negative_prompt, "negative")):
        assert torch.equal(bert.read(prompt), expected[f"text.{stored}_ids"].long())
        assert torch.equal(t5.read(prompt), expected[f"text.{stored}_ids_2"].long())


@pytest.mark.parametrize("name", ["v5-inp-i2v-end", "v51-t2v"])
def test_angles_are_those_that_the_network_was_trained_with(name: str) -> None:
    case = CASES[name]
    denoiser, expected = engine_of(case.model).pipeline.denoiser, case.expected()
    assert isinstance(denoiser, EasyAnimateDenoiser)
    cos, sin = denoiser.rope(expected["noise.latents"], 3)

    assert (cos[3:] - expected["forward.rope_cos"]).abs().max() < 1e-5
    assert (sin[3:] - expected["forward.rope_sin"]).abs().max() < 1e-5


def test_the_check_shows_a_vae_without_its_attention_and_text_that_is_not_read() -> None:
    case = CASES["v5-t2v"]
    engine = open_engine(case.model)
    middle = pipeline_of(engine).modules.vae.decoder.mid_block
    assert isinstance(middle, AttentiveMidBlock)
    attentions, middle.attentions = middle.attentions, torch.nn.ModuleList()
    assert beyond_tolerance(compare(case, engine)) == ["frames"]

    middle.attentions = attentions
    network = pipeline_of(engine).modules.transformer
    network.text_proj_t5.weight.data.zero_()
    assert "forward" in beyond_tolerance(compare(case, engine))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A V5 of one's own, to be changed."""
    return Path(shutil.copytree(FIXTURES / "models" / "v5-t2v", tmp_path / "model"))


def rename(file: Path, change: Callable[[str], str | None]) -> None:
    renamed = ((change(name), tensor) for name, tensor in load_file(file).items())
    save_file({name: tensor for name, tensor in renamed if name is not None}, file)


def edit(file: Path, **changed: object) -> None:
    content = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def without_attention(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rename(file, lambda name: None if ".attentions." in name else name)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no T5": (lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2/config.json"),
    "another text encoder": (
        lambda f: edit(f / "text_encoder/config.json", model_type="qwen2_vl"),
        "has a text_encoder of model_type 'qwen2_vl'",
    ),
    "another width": (
        lambda f: edit(f / "transformer/config.json", text_embed_dim_t5=64),
        "text_embed_dim_t5 in transformer/config.json is 64, text_encoder_2/config.json's d_model is 48",
    ),
    "V5.1's text norm": (
        lambda f: edit(f / "transformer/config.json", add_norm_text_encoder=True),
        "has add_norm_text_encoder, as V5.1, and text_embed_dim_t5",
    ),
    "flow matching": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "is sampled with FlowMatchEulerDiscreteScheduler",
    ),
    "predicts samples": (
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="sample"),
        "prediction_type is 'sample'; must be one of v_prediction, epsilon",
    ),
    "Control": (lambda f: edit(f / "transformer/config.json", in_channels=32), "is a Control model"),
    "no attention": (without_attention, "mid_block_use_attention is true, and there are no weights"),
    "another attention": (
        lambda f: edit(f / "vae/config.json", mid_block_attention_type="3d"),
        "mid_block_attention_type is '3d'; must be 'spatial'",
    ),
    "no tokens of T5": (lambda f: (f / "tokenizer_2/spiece.model").unlink(), "has neither spiece.model nor tokenizer"),
    "damaged tokens": (
        lambda f: (f / "tokenizer_2/spiece.model").write_bytes(b"\x0a\xff"),
        "is no SentencePiece model",
    ),
    "no limit": (
        lambda f: edit(f / "tokenizer/tokenizer_config.json", model_max_length="many"),
        "has no number as model_max_length",
    ),
    "a weight too few": (
        lambda f: rename(
            f / "transformer/diffusion_pytorch_model.safetensors",
            lambda name: None if name == "text_proj_t5.bias" else name,
        ),
        "missing text_proj_t5.bias",
    ),
    "a weight too many": (
        lambda f: rename(
            f / "text_encoder_2/model.safetensors",
            lambda name: "encoder.extra.weight" if "final_layer_norm" in name else name,
        ),
        "unexpected encoder.extra.weight",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_v5_that_cannot_run_is_refused_by_name(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)

    with pytest.raises(UnsupportedModel, match=re.escape(message)):
        open_engine(folder)


def test_attention_that_the_configuration_switches_off_stays_in_its_file(folder: Path) -> None:
    edit(folder / "vae/config.json", mid_block_use_attention=False)

    vae = pipeline_of(open_engine(folder)).modules.vae
    assert not any(".attentions." in name for name in vae.state_dict())


def test_a_picture_for_a_model_that_makes_videos_from_text_alone_is_refused() -> None:
    engine = engine_of(CASES["v5-t2v"].model)
    job = replace(CASES["v5-t2v"].job(), start=Picture(48, 48, bytes(3 * 48 * 48)))

    with pytest.raises(ValueError, match="makes videos from text alone"):
        engine.begin(job)


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    """A folder of fixtures as a checkout without links has it: with one case, and one that is not supported."""
    place = tmp_path / "fixtures"
    for name in ("v5-t2v", "models/v5-t2v", "shared"):
        shutil.copytree(FIXTURES / name, place / name, symlinks=True)
    for link in [file for file in place.rglob("*") if file.is_symlink()]:
        target = link.readlink()
        link.unlink()
        link.write_text(str(target))
    other = place / "v5-v2v"
    other.mkdir()
    (other / "request.json").write_text('{"model": "../models/v5-t2v", "family": "v5", "task": "v2v", "mask": "m.png"}')
    return place


def test_the_command_has_a_row_for_each_case_and_names_what_it_cannot_run(
    fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upstream_check.main([str(fixtures)]) == 0

    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:-1]] == ["case", "tolerance", "v5-t2v", "v5-v2v"]
    assert rows[-2].endswith("not supported: task v2v, mask")
    assert rows[-1] == "1 of 1 cases within the tolerances; 1 not supported"


def test_the_command_fails_where_a_number_is_beyond_its_tolerance_or_nothing_can_be_run(
    fixtures: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = fixtures / "v5-t2v" / "expected.safetensors"
    expected = load_file(file)
    expected["latents.05"][0, 0, 0, 0, 0] += 2e-3
    save_file(expected, file)
    assert upstream_check.main([str(fixtures)]) == 1
    assert capsys.readouterr().out.splitlines()[-3].endswith("beyond: latents")

    shutil.rmtree(fixtures / "v5-t2v")
    assert upstream_check.main([str(fixtures)]) == 1
    (tmp_path / "empty").mkdir()
    assert upstream_check.main([str(tmp_path / "empty")]) == 1
    assert "has no case" in capsys.readouterr().err
