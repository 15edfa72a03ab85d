"""The kernels' definitions in torch's own operators, and the constants that all implementations share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

E4M3 = torch.float8_e4m3fn
E4M3_MAX = torch.finfo(E4M3).max
LEAST_MAGNITUDE = 1e-12
"""Of a row, before it is scaled into e4m3's range; rows of zeros stay zeros."""

VIDEO, TEXT = 0, 1
"""Kinds of token, in the order of the modulation tables. In the sequence, text comes first."""
SHIFT, SCALE, GATE = 0, 1, 2


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair of neighbouring channels by its token's angle: a part of what `qk_norm_rotate` does.

    Args:
        x: Queries or keys, (batch, tokens, heads, channels).
        rope: Cosines and sines of the angles, (tokens, channels) float32.

    Returns:
        Of the shape and dtype of `x`.
    """
    cos, sin = (table.unsqueeze(1) for table in rope)  # (tokens, 1, channels)
    real, imaginary = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    turned = torch.stack((-imaginary, real), dim=-1).flatten(-2)  # by a right angle
    return (x.float() * cos + turned * sin).to(x.dtype)


def plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension in sums and products: for compilers whose own wants constant weights."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps) * weight + bias


def gated(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int) -> Tensor:
    """The definition of `fused.add_gate`."""
    y = torch.cat(branch, dim=1).float()
    summed = [
        x[:, span].float() + _row(gates, kind, GATE) * y[:, span] for kind, span in _kinds(x.shape[1], texts).items()
    ]
    return torch.cat(summed, dim=1).to(x.dtype)


def normed(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, modulation: Tensor, texts: int, quantise: bool
) -> list[Tensor]:
    """The definition of `fused.norm_modulate`: rows in the dtype of `x`, or values and scale."""
    y = F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps)
    modulated = [
        y[:, span] * (1 + _row(modulation, kind, SCALE)) + _row(modulation, kind, SHIFT)
        for kind, span in _kinds(x.shape[1], texts).items()
    ]
    y = torch.cat(modulated, dim=1)
    return list(scaled(y)) if quantise else [y.to(x.dtype)]


def _kinds(tokens: int, texts: int) -> dict[int, slice]:
    """Where the tokens of each kind are that there is.

    Tokens are cut and not masked: TensorRT for RTX 1.4 gives wrong numbers for `torch.where` in bfloat16.
    """
    spans = {TEXT: slice(0, texts), VIDEO: slice(texts, tokens)}
    return {kind: span for kind, span in spans.items() if span.start < span.stop}


def _row(table: Tensor, kind: int, part: int) -> Tensor:
    """One row of a modulation table: (batch, 2, 3, dim) to (batch, 1, dim) float32."""
    number = 3 * kind + part
    return table.flatten(1, 2)[:, number : number + 1].float()


def by_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of a product: queries, keys and values, (batch, tokens, heads, channels) each."""
    q, k, v = torch.unflatten(qkv, -1, (3, heads, -1)).unbind(-3)
    return q, k, v


def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scale of `Quantised`, of float32 rows."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST_MAGNITUDE) / E4M3_MAX
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale
