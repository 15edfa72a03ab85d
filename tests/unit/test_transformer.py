from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateAttnProcessor2_0
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.block import Block
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.families.runtime import NetworkInputs
from easyanim_server.engine.prediction import Predictor
from tests.models import make_pipeline, shared_pipeline

SIZES = [(1, 4, 6), (2, 6, 4), (4, 4, 4)]
"""Latent frames, height, width."""


def inputs(size: tuple[int, int, int], batch: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(batch, 16, *size, generator=generator),
        "timestep": torch.linspace(992.4, 100.7, batch),
        "text": torch.randn(batch, 256, 64, generator=generator),
        "inpaint": torch.randn(batch, 17, *size, generator=generator),
    }


def stock_velocity(latents: Tensor, timestep: Tensor, text: Tensor, inpaint: Tensor) -> Tensor:
    transformer = shared_pipeline().transformer
    velocity: Tensor = transformer(
        latents, timestep, encoder_hidden_states=text, inpaint_latents=inpaint, return_dict=False
    )[0]
    return velocity


def velocity(denoiser: EasyAnimateDenoiser, latents: Tensor, timestep: Tensor, text: Tensor, inpaint: Tensor) -> Tensor:
    inputs = NetworkInputs(latents, timestep, {"inpaint": inpaint})
    return Predictor(denoiser).predict(inputs, [{"text": text}])[0]


@pytest.fixture(scope="module")
def denoiser() -> EasyAnimateDenoiser:
    return EasyAnimateDenoiser(make_pipeline().transformer, "diffusers")


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_the_velocity_equals_the_stock_forward(
    denoiser: EasyAnimateDenoiser, size: tuple[int, int, int], batch: int
) -> None:
    given = inputs(size, batch)

    torch.testing.assert_close(velocity(denoiser, **given), stock_velocity(**given), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_original_mode_gives_another_velocity() -> None:
    given = inputs(SIZES[0])

    made = velocity(EasyAnimateDenoiser(make_pipeline().transformer, "original"), **given)

    assert (made - stock_velocity(**given)).abs().max() > 0.1


@torch.no_grad()
def test_where_every_block_has_weights_for_text_the_modes_are_one() -> None:
    given = inputs(SIZES[0])
    original, diffusers = (
        velocity(EasyAnimateDenoiser(make_pipeline(2, 2).transformer, mode), **given)
        for mode in ("original", "diffusers")
    )

    assert torch.equal(original, diffusers)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_tables_of_angles_equal_the_stock_ones(denoiser: EasyAnimateDenoiser, size: tuple[int, int, int]) -> None:
    latents = torch.empty(1, 16, *size)
    cos, sin = denoiser.rope(latents, texts=7)
    expected_cos, expected_sin = shared_pipeline().transformer.rope_embedding(latents)

    assert torch.equal(cos[7:], expected_cos)
    assert torch.equal(sin[7:], expected_sin)
    assert (cos[:7] == 1).all(), "text is not turned"
    assert (sin[:7] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_tokens_lie_contiguous_in_every_block(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int]) -> None:
    contiguous = []
    forward = Block.forward

    def noted(block: Block, x: Tensor, *rest: Any) -> Tensor:
        contiguous.append(x.is_contiguous())
        return forward(block, x, *rest)

    monkeypatch.setattr(Block, "forward", noted)
    velocity(EasyAnimateDenoiser(make_pipeline().transformer, "original"), **inputs(size))

    assert contiguous == [True] * 4


def test_other_transformers_stay_stock() -> None:
    other = make_pipeline().transformer
    EasyAnimateDenoiser(make_pipeline().transformer, "original")

    assert all(type(block.attn1.processor) is EasyAnimateAttnProcessor2_0 for block in other.transformer_blocks)
    with torch.no_grad():
        given = inputs(SIZES[0])
        velocity = other(given["latents"], given["timestep"], None, given["text"], None, given["inpaint"]).sample
        assert torch.equal(velocity, stock_velocity(**given))
