"""Defects of the transformer in diffusers' port: each is shown in the stock code first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateAttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.engine.families.easyanimate_v51 import block
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from tests.models import (
    breaking,
    engine_of,
    make_job,
    make_modules,
    make_pipeline,
    reference,
    run,
)

IMAGE_TO_VIDEO = make_job(steps=1)


def test_the_choice_of_an_attention_kernel_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock: `set_attention_backend` is accepted and the processor calls PyTorch's function all the same."""
    calls = []

    def torchs(*args: Tensor, **options: object) -> Tensor:
        calls.append("torch")
        return plain(*args, **options)  # type: ignore[arg-type]

    def another(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        calls.append("ours")
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        attended: Tensor = ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)
        return attended

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", torchs)
    stock = make_pipeline()
    stock.transformer.set_attention_backend("flex")
    try:
        velocity(stock.transformer)
    finally:
        stock.transformer.reset_attention_backend()
    assert calls == ["torch"] * 4

    ours = engine_of(make_modules())
    sampling = ours.begin(make_job(guidance=1.0))
    monkeypatch.setattr(block, "attend", another)
    calls.clear()
    ours.step(sampling)
    assert calls == ["ours"] * 4


def test_angles_are_built_anew_at_every_step() -> None:
    """Stock: on the CPU, at every step, and every block copies them to the device."""
    stock, modules = make_pipeline(), make_modules()
    job = make_job(steps=3)
    with breaking(stock.transformer.rope_embedding, after=100) as built:
        reference(stock, job)
    assert built.calls == 3

    ours = engine_of(modules, attention_mode="diffusers")
    with breaking(modules.transformer.rope_embedding, after=100) as built:
        run(ours, job)
        run(ours, job)
        assert built.calls == 1
        run(ours, make_job(bucket="48x32x9"))
        assert built.calls == 2


def test_rows_and_columns_are_not_where_the_network_was_trained_with_them() -> None:
    """Stock: positions of a later release than the training's wherever the crop does not start at 0."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 2, 8, 4, generator=generator)  # portrait: the crop starts at column 15
    stock = make_pipeline().transformer
    ours = EasyAnimateDenoiser(make_pipeline().transformer, "original")

    first, last = (stock.rope_embedding(latents)[1].view(2, 4, 2, -1)[:, :, column] for column in (0, -1))
    mine = ours.rope(latents, texts=0)[1].view(2, 4, 2, -1)  # (frames, rows, columns, channels)
    torch.testing.assert_close(mine[:, :, 0], first)
    torch.testing.assert_close(mine[0, 0, 1, -12], torch.tensor(15 + 15 / 2).sin())  # the second of two columns
    assert (mine[:, :, -1] - last).abs().max() > 0.1


def test_channels_of_a_token_lie_apart_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock: the patch embedding leaves channels first, and every block works on strided tokens."""
    contiguous = []

    stock = make_pipeline()
    stock.transformer.transformer_blocks[0].norm1.norm.register_forward_pre_hook(
        lambda _, args: contiguous.append(args[0].is_contiguous())
    )
    velocity(stock.transformer)
    assert contiguous
    assert not all(contiguous)

    contiguous.clear()
    forward = block.Block.forward

    def noted(self: block.Block, x: Tensor, *rest: Any) -> Tensor:
        contiguous.append(x.is_contiguous())
        return forward(self, x, *rest)

    monkeypatch.setattr(block.Block, "forward", noted)
    ours = engine_of(make_modules())
    ours.step(ours.begin(IMAGE_TO_VIDEO))
    assert contiguous
    assert all(contiguous)


def test_text_skips_the_output_projection_in_blocks_with_shared_weights() -> None:
    """Stock: its text half is the raw attention; half of the 7B model's blocks then are not those that were trained."""

    class AsTrained(EasyAnimateAttnProcessor2_0):  # type: ignore[misc]  # untyped
        def __call__(
            self, attn: Attention, *args: Any, image_rotary_emb: Any = None, **options: Any
        ) -> tuple[Tensor, Tensor]:
            video, text = super().__call__(attn, *args, image_rotary_emb=image_rotary_emb, **options)
            return video, text if attn.to_add_out else attn.to_out[0](text)

    stock, corrected = make_pipeline(), make_pipeline()
    for each in corrected.transformer.transformer_blocks:
        each.attn1.set_processor(AsTrained())
    assert (velocity(stock.transformer) - velocity(corrected.transformer)).abs().max() > 0.1

    job = replace(IMAGE_TO_VIDEO, guidance=1.0)
    modes: tuple[tuple[AttentionMode, Any], ...] = (("original", corrected), ("diffusers", stock))
    for mode, pipeline in modes:
        latents = run(engine_of(make_modules(), attention_mode=mode), job).latents
        torch.testing.assert_close(latents, reference(pipeline, job)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def velocity(transformer: nn.Module) -> Tensor:
    """One forward of a stock transformer, with whatever processors it has."""
    generator = torch.Generator().manual_seed(0)
    latents, inpaint = (torch.randn(1, channels, 3, 4, 6, generator=generator) for channels in (16, 17))
    text = torch.randn(1, 256, 64, generator=generator)
    predicted: Tensor = transformer(
        latents, torch.tensor([500.0]), encoder_hidden_states=text, inpaint_latents=inpaint
    ).sample
    return predicted
