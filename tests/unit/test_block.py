from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode, Block
from easyanim_server.engine.families.runtime import Rope
from easyanim_server.engine.kernels.definitions import rotate
from tests.models import make_pipeline

TEXT, VIDEO = 5, 12
"""Tokens."""

MMDIT, SHARED = 0, -1
"""Blocks of the tiny transformer: its first ones have weights for text, its last ones do not."""


def tokens(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Rope]:
    """Joint tokens, an embedded timestep, and angles of all tokens, of which text is not turned."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, TEXT + VIDEO, 128, generator=generator)
    emb = torch.randn(batch, 64, generator=generator)
    angles = torch.randn(VIDEO, 16, generator=generator).repeat_interleave(2, dim=1)
    angles = torch.cat((torch.zeros(TEXT, 32), angles))
    return x, emb, (angles.cos(), angles.sin())


def ours(number: int, mode: AttentionMode) -> Tensor:
    x, emb, rope = tokens()
    block = Block(make_pipeline().transformer.transformer_blocks[number], mode)
    result: Tensor = block(x, emb, rope, TEXT, "torch")
    return result


@torch.no_grad()
@pytest.mark.parametrize("number", [MMDIT, SHARED])
def test_in_diffusers_mode_both_kinds_of_block_equal_the_stock_block(number: int) -> None:
    x, emb, rope = tokens()
    stock = make_pipeline().transformer.transformer_blocks[number]
    video_rope = tuple(table[TEXT:] for table in rope)
    video, text = stock(x[:, TEXT:], x[:, :TEXT], emb, video_rope)

    torch.testing.assert_close(ours(number, "diffusers"), torch.cat((text, video), 1), rtol=1e-5, atol=1e-5)


def as_trained(x: Tensor, emb: Tensor, rope: Rope) -> Tensor:
    """A block with shared weights by its definition: text and video are one sequence from first to last."""
    block = make_pipeline().transformer.transformer_blocks[SHARED]
    attn = block.attn1

    def modulated(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        video, text = norm.linear(norm.silu(emb)).unsqueeze(1).split(3 * 128, dim=-1)
        shift, scale, gate = (
            torch.cat((of_text.expand(-1, TEXT, -1), of_video.expand(-1, VIDEO, -1)), 1)
            for of_video, of_text in zip(video.chunk(3, -1), text.chunk(3, -1), strict=True)
        )
        return norm.norm(x) * (1 + scale) + shift, gate

    y, gate = modulated(block.norm1, x)
    q, k, v = (layer(y).unflatten(-1, (4, 32)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v))
    q, k = apply_rotary_emb(attn.norm_q(q), rope), apply_rotary_emb(attn.norm_k(k), rope)
    shares = torch.softmax(q @ k.mT / math.sqrt(32), dim=-1)
    x = x + gate * attn.to_out[0]((shares @ v).transpose(1, 2).flatten(2))
    y, gate = modulated(block.norm2, x)
    result: Tensor = x + gate * block.ff(y)
    return result


@torch.no_grad()
def test_in_original_mode_text_and_video_go_through_the_output_projection_together() -> None:
    torch.testing.assert_close(ours(SHARED, "original"), as_trained(*tokens()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_modes_differ_in_the_text_of_blocks_with_shared_weights_and_nowhere_else() -> None:
    assert torch.equal(ours(MMDIT, "original"), ours(MMDIT, "diffusers"))
    original, diffusers = ours(SHARED, "original"), ours(SHARED, "diffusers")
    torch.testing.assert_close(original[:, TEXT:], diffusers[:, TEXT:], rtol=1e-6, atol=1e-6)
    assert (original[:, :TEXT] - diffusers[:, :TEXT]).abs().max() > 0.1


def test_weights_are_shared_with_the_stock_block_and_not_copied() -> None:
    stock = make_pipeline().transformer.transformer_blocks[MMDIT]
    block = Block(stock, "original")

    for layers, parts in (
        (block.video, (stock.attn1.to_q, stock.attn1.to_k, stock.attn1.to_v)),
        (block.text, (stock.attn1.add_q_proj, stock.attn1.add_k_proj, stock.attn1.add_v_proj)),
    ):
        assert layers is not None
        assert torch.equal(layers.qkv.weight, torch.cat([part.weight for part in parts]))
        storage = layers.qkv.weight.untyped_storage().data_ptr()
        assert all(part.weight.untyped_storage().data_ptr() == storage for part in parts)


@torch.no_grad()
def test_inputs_are_left_as_they_were() -> None:
    x, emb, rope = tokens()
    before = x.clone()
    Block(make_pipeline().transformer.transformer_blocks[SHARED], "original")(x, emb, rope, TEXT, "torch")

    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_equals_diffusers(dtype: torch.dtype) -> None:
    _, _, rope = tokens()
    x = torch.randn(2, TEXT + VIDEO, 4, 32, generator=torch.Generator().manual_seed(1)).to(dtype)

    assert torch.equal(rotate(x, rope), apply_rotary_emb(x.transpose(1, 2), rope).transpose(1, 2))
