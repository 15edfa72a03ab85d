from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateAttnProcessor2_0
from torch import Tensor

from easyanim_server.engine import attention
from easyanim_server.engine.attention import JointAttention, Rope, attend, rotate
from tests.models import shared_pipeline

TEXT, VIDEO = 5, 12
"""Tokens."""

MMDIT, SHARED = 0, -1
"""Blocks of the tiny transformer: its first ones have weights for text, its last ones do not."""


def weights(block: int) -> Attention:
    return shared_pipeline().transformer.transformer_blocks[block].attn1


def tokens(seed: int = 0) -> tuple[Tensor, Tensor, Rope]:
    generator = torch.Generator().manual_seed(seed)
    video, text = (torch.randn(2, length, 128, generator=generator) for length in (VIDEO, TEXT))
    angles = torch.randn(VIDEO, 16, generator=generator).repeat_interleave(2, dim=1)
    return video, text, (angles.cos(), angles.sin())


def as_trained(attn: Attention, video: Tensor, text: Tensor, rope: Rope) -> Tensor:
    """A block with shared weights by its definition: text and video are one sequence from first to last."""
    x = torch.cat((text, video), dim=1)
    q, k, v = (
        projection(x).view(2, TEXT + VIDEO, attn.heads, -1).transpose(1, 2)
        for projection in (attn.to_q, attn.to_k, attn.to_v)
    )
    q, k = attn.norm_q(q), attn.norm_k(k)
    cos, sin = (torch.cat((fill.expand(TEXT, -1), table)) for fill, table in zip(UNTURNED, rope, strict=True))
    q, k = apply_rotary_emb(q, (cos, sin)), apply_rotary_emb(k, (cos, sin))
    shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return attn.to_out[0]((shares @ v).transpose(1, 2).flatten(2))


UNTURNED = (torch.ones(1, 32), torch.zeros(1, 32))


@torch.no_grad()
def test_in_original_mode_text_and_video_go_through_the_output_projection_together() -> None:
    video, text, rope = tokens()
    expected = as_trained(weights(SHARED), video, text, rope)

    video_out, text_out = JointAttention("original")(weights(SHARED), video, text, image_rotary_emb=rope)

    torch.testing.assert_close(text_out, expected[:, :TEXT], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(video_out, expected[:, TEXT:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("block", [MMDIT, SHARED])
def test_in_diffusers_mode_both_kinds_of_block_equal_the_stock_processor(block: int) -> None:
    video, text, rope = tokens()
    expected = EasyAnimateAttnProcessor2_0()(weights(block), video, text, image_rotary_emb=rope)

    result = JointAttention("diffusers")(weights(block), video, text, image_rotary_emb=rope)

    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_modes_differ_in_the_text_of_blocks_with_shared_weights_and_nowhere_else() -> None:
    video, text, rope = tokens()
    same = {}
    for block in (MMDIT, SHARED):
        original = JointAttention("original")(weights(block), video, text, image_rotary_emb=rope)
        diffusers = JointAttention("diffusers")(weights(block), video, text, image_rotary_emb=rope)
        same[block] = [torch.equal(a, b) for a, b in zip(original, diffusers, strict=True)]

    assert same == {MMDIT: [True, True], SHARED: [True, False]}


@torch.no_grad()
@pytest.mark.parametrize("block", [MMDIT, SHARED])
def test_without_angles_nothing_is_rotated(block: int) -> None:
    video, text, _ = tokens()
    identity = tuple(fill.expand(VIDEO, -1) for fill in UNTURNED)

    unrotated = JointAttention("original")(weights(block), video, text)
    rotated_by_nothing = JointAttention("original")(weights(block), video, text, image_rotary_emb=identity)

    torch.testing.assert_close(unrotated, rotated_by_nothing, rtol=0, atol=0)


@torch.no_grad()
def test_inputs_are_left_as_they_were() -> None:
    video, text, rope = tokens()
    before = video.clone(), text.clone()

    JointAttention("original")(weights(SHARED), video, text, image_rotary_emb=rope)

    assert torch.equal(video, before[0])
    assert torch.equal(text, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_equals_diffusers(dtype: torch.dtype) -> None:
    _, _, rope = tokens()
    x = torch.randn(2, 4, VIDEO, 32, generator=torch.Generator().manual_seed(1)).to(dtype)

    assert torch.equal(rotate(x, rope), apply_rotary_emb(x, rope))


@torch.no_grad()
@pytest.mark.parametrize("block", [MMDIT, SHARED])
def test_every_block_attends_in_one_call_of_the_one_kernel(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.append((q.shape, k.shape, v.shape))
        return attend(q, k, v)

    monkeypatch.setattr(attention, "attend", counted)
    video, text, rope = tokens()
    JointAttention("original")(weights(block), video, text, image_rotary_emb=rope)

    assert shapes == [((2, 4, TEXT + VIDEO, 32),) * 3]
