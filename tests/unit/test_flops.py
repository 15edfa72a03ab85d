"""The formula counts what the networks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.job import Bucket
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.builtin import PUBLISHED_TRANSFORMERS
from easyanim_server.engine.families.easyanimate_v51.cost import Flops, step_flops
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.families.runtime import NetworkInputs
from easyanim_server.engine.prediction import Predictor
from tests.models import make_pipeline

SHAPES = [((1, 4, 6), 7), ((3, 8, 4), 256)]
"""Latent frames, height and width; text tokens."""
ATTEND = torch.ops.easyanim.attend


def of_attend(q: torch.Size, k: torch.Size, *_: Any, **__: Any) -> int:
    batch, queries, heads, channels = q
    return 2 * 2 * batch * heads * queries * k[1] * channels


def of_linear_gelu(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight[0]


OPAQUE = {ATTEND: of_attend, torch.ops.easyanim.linear_gelu: of_linear_gelu}
"""Our own operators that multiply matrices, which torch's counter does not see into."""


def count(run: Callable[[], object]) -> Flops:
    with FlopCounterMode(display=False, custom_mapping=OPAQUE) as counter, torch.no_grad():
        run()
    attention = counter.get_flop_counts()["Global"].get(ATTEND, 0)
    return Flops(counter.get_total_flops() - attention, attention)


def given(size: tuple[int, int, int], texts: int, batch: int) -> tuple[torch.Tensor, ...]:
    video = (torch.zeros(batch, channels, *size) for channels in (16, 17))
    return (*video, torch.zeros(batch), torch.zeros(batch, texts, 64))


@pytest.mark.parametrize("mode", ["original", "diffusers"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("size", "texts"), SHAPES)
def test_the_formula_equals_what_our_forward_does(
    mode: AttentionMode, batch: int, size: tuple[int, int, int], texts: int
) -> None:
    denoiser = EasyAnimateDenoiser(make_pipeline(3, 1).transformer, mode)
    latents, inpaint, timestep, text = given(size, texts, batch)

    counted = count(
        lambda: Predictor(denoiser).predict(NetworkInputs(latents, timestep, {"inpaint": inpaint}), [{"text": text}])
    )

    tokens = size[0] * size[1] * size[2] // 4
    assert counted == step_flops(denoiser.transformer.config, tokens, texts, batch, mode)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("size", "texts"), SHAPES)
def test_the_formula_equals_what_the_stock_forward_does(batch: int, size: tuple[int, int, int], texts: int) -> None:
    transformer = make_pipeline(3, 1).transformer.to("meta")
    latents, inpaint, timestep, text = (tensor.to("meta") for tensor in given(size, texts, batch))

    counted = count(
        lambda: transformer(latents, timestep, encoder_hidden_states=text, inpaint_latents=inpaint, return_dict=False)
    )

    tokens = size[0] * size[1] * size[2] // 4
    assert counted.total == step_flops(transformer.config, tokens, texts, batch, "diffusers", stock=True).total


@pytest.mark.parametrize(
    ("bucket", "tokens", "stock", "original"),
    [("384x672", 13104, 375.7, 375.8), ("576x1008", 29484, 1267.4, 1267.6), ("768x1344", 52416, 3313.5, 3313.6)],
)
def test_the_published_7b_model_takes_this_many_teraflops_a_guided_step(
    bucket: str, tokens: int, stock: float, original: float
) -> None:
    geometry = EASYANIMATE_V51.geometry
    assert geometry.video_tokens(Bucket.parse(bucket, geometry)) == tokens
    modes: tuple[tuple[AttentionMode, float], ...] = (("diffusers", stock), ("original", original))
    for mode, expected in modes:
        flops = step_flops(PUBLISHED_TRANSFORMERS["7b"], tokens, 256, 2, mode, stock=True)
        assert step_flops(PUBLISHED_TRANSFORMERS["7b"], tokens, 256, 2, mode).total < flops.total
        assert flops.total / 1e12 == pytest.approx(expected, abs=0.05)


def test_a_batch_of_two_is_two_forwards() -> None:
    one, two = (step_flops(PUBLISHED_TRANSFORMERS["12b"], 13104, 256, batch, stock=True) for batch in (1, 2))

    assert two == Flops(2 * one.linear, 2 * one.attention)
    assert two.total / 1e12 == pytest.approx(501, abs=1)
