"""Attention as two convolutions of single pixels, whose weights are the keys and the values; see `products`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES = 2**23
"""Most of them that are computed at once, for memory must not grow with the square of the tokens."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let every token attend to every token.

    Args:
        q: Queries, (batch, queries, heads, channels).
        k: Keys, (batch, keys, heads, channels).
        v: Values, of the shape of `k`.

    Returns:
        Of the shape of `q`.
    """
    return torch.stack([_attend(*one) for one in zip(q, k, v, strict=True)])


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same of one sample: (tokens, heads, channels) each."""
    (_, heads, channels), keys = q.shape, len(k)
    # Every head is a group of channels: of as many outputs as there are keys, then of as many inputs.
    by_key = k.transpose(0, 1).reshape(heads * keys, channels, 1, 1)
    by_channel = v.permute(1, 2, 0).reshape(heads * channels, keys, 1, 1)
    parts = []
    for queries in torch.split(q * channels**-0.5, max(1, SCORES // (heads * keys))):
        scores = torch.unflatten(_convolve(queries.flatten(1), by_key, heads), 1, (heads, keys))
        parts.append(_convolve(torch.softmax(scores, dim=-1).flatten(1), by_channel, heads))
    return torch.unflatten(torch.cat(parts), 1, (heads, channels))


def _convolve(rows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Multiply rows, (rows, in), to (rows, out)."""
    pixels = rows[None, :, None].permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last
    y = F.conv2d(pixels, weight, groups=groups)
    return y.permute(0, 2, 3, 1).reshape(len(rows), -1)
