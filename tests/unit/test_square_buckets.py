"""768x768 with 49 frames and 1024x1024 with 9: no defaults, but configurable, planned and run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from easyanim_server import catalog
from easyanim_server.__main__ import app
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket, nearest_bucket
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v5 import folder as v5
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from tests.models import make_job, make_modules, run
from tests.servers import settings as server_settings

FLAG = "768x768,1024x1024x9"
SQUARES = (Bucket(768, 768, 49), Bucket(1024, 1024, 9))
FIXTURE = Path(__file__).parents[1] / "fixtures" / "upstream" / "models" / "v5-inp"
PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
MODELS = ("synthetic:7b", "synthetic:v5-7b", "synthetic:12b", "synthetic:v5-12b")
GIB = 2**30


def planned(*flags: str) -> Any:
    ran = CliRunner().invoke(app, ["plan", "--json", *flags])
    assert ran.exception is None, ran.output
    return json.loads(ran.stdout)


def loaded(model: str) -> Any:
    if model == "v5.1":
        return make_modules()
    return v5.read(FIXTURE, "v5-inp", device=torch.device("cpu"), dtype=torch.float32, own=True)


@pytest.mark.parametrize("model", MODELS)
def test_square_buckets_are_settings_of_every_model(model: str) -> None:
    settings = server_settings(model=model, buckets=FLAG, device="cpu")

    assert settings.catalogue == SQUARES
    assert not set(SQUARES) & set(Settings(model=model).catalogue), "they are asked for by name"
    config = EngineConfig.resolve(settings).of_model(catalog.expected(model))
    assert config.buckets == SQUARES
    assert nearest_bucket(config.buckets, aspect=1.1) == SQUARES[0], "the first that is named stands"


@pytest.mark.parametrize("model", MODELS)
def test_plan_knows_square_buckets(model: str) -> None:
    made = planned("--vram", "80GiB", "--model", model, "--buckets", f"512x512,{FLAG}")

    cards = {(row["bucket"], row["placement"]): row["least_card_bytes"] for row in made["rows"]}
    seconds = {(row["bucket"], row["placement"]): row["seconds"] for row in made["rows"]}
    assert {bucket for bucket, _ in cards} == {"512x512x49", *map(str, SQUARES)}
    for placement in ("full", "model_cpu_offload", "group_offload"):
        small, long, large = (cards[bucket, placement] for bucket in ("512x512x49", "768x768x49", "1024x1024x9"))
        assert small < long, "more tokens, and larger frames"
        assert placement == "model_cpu_offload" or long < large, "where weights take no turns, the VAE's frames decide"
        assert seconds["1024x1024x9", placement] < seconds["768x768x49", placement], "fewer tokens"
    assert "768x768x49" in made["auto"] or "1024x1024x9" in made["auto"]
    assert all(row["fits"] and not row["vae_tiled"] for row in made["rows"])


def test_the_page_says_what_is_planned() -> None:
    made = planned("--vram", "24GiB", "--model", "synthetic:7b", "--buckets", FLAG)
    cards = {(row["bucket"], row["placement"]): row["least_card_bytes"] / GIB for row in made["rows"]}
    text = PAGE.read_text()

    for bucket in SQUARES:
        tokens = catalog.EASYANIMATE_V51.geometry.video_tokens(bucket)
        needed = [f"{cards[str(bucket), placement]:.1f}" for placement in ("model_cpu_offload", "group_offload")]
        assert f"| {bucket} | {tokens} | {' | '.join(needed)} |" in text


@pytest.mark.parametrize("model", ["v5.1", "v5"])
def test_a_large_square_is_made(model: str) -> None:
    engine = Engine(EasyAnimatePipeline(loaded(model)))
    size = SQUARES[1]

    sampling = run(engine, replace(make_job(pictures=0, steps=1, guidance=1.0), bucket=size))

    assert sampling.latents.shape[2:] == (3, 128, 128)
    assert sampling.latents.isfinite().all()
    inputs, condition = engine.pipeline.denoiser.example(SQUARES[0], torch.device("cpu"))
    context = engine.pipeline.denoiser.context(inputs, condition)
    assert inputs.latents.shape[2:] == (13, 96, 96)
    assert len(context.rope[0]) == context.texts + 13 * 48 * 48
    if model == "v5":  # the smaller VAE
        first = next(engine.decode(sampling))
        assert first.shape == (1, 1024, 1024, 3)
        assert first.std() > 0


@pytest.mark.parametrize("bucket", ["1024x1024x10", "768x760x49", "1000x1000x9"])
def test_other_squares_are_refused_by_what_is_wrong(bucket: str) -> None:
    with pytest.raises(ConfigurationError, match=r"multiple of 16|4k\+1"):
        server_settings(model="synthetic:v5-7b", buckets=bucket)


def test_plan_of_float16_counts_its_float32() -> None:
    flags = ("--vram", "16GiB", "--model", "synthetic:v5-7b", "--buckets", "384x672")
    usual, narrow = planned(*flags), planned(*flags, "--dtype", "float16")

    assert (usual["dtype"], narrow["dtype"]) == ("bfloat16", "float16")
    pairs = list(zip(usual["rows"], narrow["rows"], strict=True))
    assert all(there["peak_bytes"] > here["peak_bytes"] for here, there in pairs)
    assert all(there["host_bytes"] >= here["host_bytes"] for here, there in pairs)
    shown = CliRunner().invoke(app, ["plan", *flags, "--dtype", "float16"])
    assert "dtype float16: memory is predicted for it" in shown.output
