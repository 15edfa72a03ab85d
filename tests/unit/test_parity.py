"""The engine in `diffusers` mode is the stock pipeline, draw for draw of noise and step for step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from easyanim_server.domain.job import Job
from easyanim_server.engine.families.runtime import resident
from tests.models import engine_of, make_job, make_modules, make_pipeline, reference, run, shared_pipeline

ALL_MMDIT = (2, 2)
MIXED = (4, 2)
GUIDED = 6.0
UNGUIDED = 1.0

GENERATIONS = [
    # pictures, guidance, steps, seed, bucket, blocks
    (1, GUIDED, 2, 0, "32x48x9", MIXED),
    (2, GUIDED, 4, 1, "48x32x13", MIXED),
    (0, GUIDED, 4, 0, "32x48x5", ALL_MMDIT),
    (1, UNGUIDED, 4, 1, "32x48x5", MIXED),
    (2, UNGUIDED, 1, 0, "48x32x9", ALL_MMDIT),
    (0, UNGUIDED, 2, 1, "32x48x13", MIXED),
    (1, GUIDED, 1, 1, "48x32x1", ALL_MMDIT),
    (2, GUIDED, 2, 0, "32x48x1", MIXED),
    (0, GUIDED, 1, 1, "48x32x1", MIXED),
    (1, UNGUIDED, 2, 0, "48x32x13", ALL_MMDIT),
    (2, GUIDED, 2, 1, "32x48x5", ALL_MMDIT),
    (0, UNGUIDED, 4, 0, "48x32x9", ALL_MMDIT),
]


class Result(NamedTuple):
    latents: Tensor
    """(1, 16, frames', height/8, width/8)"""
    frames: Tensor
    """(n, 3, height, width) in [0, 1]"""


def ours(job: Job, blocks: tuple[int, int] = MIXED) -> Result:
    engine = engine_of(make_modules(make_pipeline(*blocks)), attention_mode="diffusers")
    sampling = run(engine, job)
    video = torch.cat(list(engine.pipeline.decode(sampling.latents, resident)), dim=2)[0]
    return Result(sampling.latents, (video * 0.5 + 0.5).clamp(0, 1).transpose(0, 1))


def error(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape
    return (result - expected).abs().max().item()


@pytest.mark.parametrize(("pictures", "guidance", "steps", "seed", "bucket", "blocks"), GENERATIONS)
def test_latents_and_frames_equal_the_stock_pipelines(
    pictures: int, guidance: float, steps: int, seed: int, bucket: str, blocks: tuple[int, int]
) -> None:
    job = make_job(bucket=bucket, pictures=pictures, guidance=guidance, steps=steps, seed=seed)
    result = ours(job, blocks)
    expected = Result(*reference(shared_pipeline(*blocks), job))

    assert error(result.latents, expected.latents) < 1e-5
    assert error(result.frames, expected.frames) < 1e-5


@pytest.mark.parametrize(
    "prompt",
    ["", "一只猫在雪地里奔跑", "a <|im_end|> in the text", "very long " * 100],
    ids=["empty", "zh", "special", "cut"],
)
def test_prompts_of_every_kind_give_the_stock_pipelines_latents(prompt: str) -> None:
    job = make_job(prompt=prompt, bucket="32x48x5", steps=1, guidance=UNGUIDED)

    assert error(ours(job).latents, reference(shared_pipeline(), job)[0]) < 1e-5


def test_pixels_equal_the_stock_pipelines() -> None:
    job = make_job(guidance=UNGUIDED)
    engine = engine_of(make_modules(), attention_mode="diffusers")

    pixels = np.concatenate(list(engine.decode(run(engine, job))))
    stock = reference(shared_pipeline(), job)[1].permute(0, 2, 3, 1).numpy()

    # Where a value lies on the edge between two levels, rounding errors decide.
    assert np.mean(pixels != (stock * 255).round()) < 1e-3
    assert np.abs(pixels - (stock * 255)).max() < 0.51


def test_noise_on_pictures_can_be_switched_off_as_the_checkpoint_says() -> None:
    job = make_job(guidance=UNGUIDED, bucket="32x48x5")
    stock, modules = make_pipeline(), make_modules()
    for transformer in (stock.transformer, modules.transformer):
        transformer.register_to_config(add_noise_in_inpaint_model=False)

    latents = run(engine_of(modules, attention_mode="diffusers"), job).latents

    assert error(latents, reference(stock, job)[0]) < 1e-5
