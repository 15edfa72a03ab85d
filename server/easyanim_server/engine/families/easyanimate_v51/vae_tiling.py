"""A picture's area in overlapping tiles, and the way back, for a VAE that a device is too small for.

Tiles, overlaps and blending are those of diffusers' `AutoencoderKLMagvit`, whose tiled decoding this equals. Its tiled
encoding does not cut the overlap off before it joins (0.42), so what it gives belongs to other places; here it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TILE = 512
"""Pixels of a tile's side."""

STRIDE = 448
"""Pixels from the start of a tile to the start of the next."""


def is_cut(height: int, width: int) -> bool:
    """Whether a video of that size, in pixels, is more than one tile."""
    return max(height, width) > TILE


def cut(x: Tensor, scale: int) -> Iterator[Tensor]:
    """Yield the tiles, row after row, as views.

    Args:
        x: (..., height, width).
        scale: Pixels for each element of `x` in either direction: 1 for video, 8 for latents.
    """
    tile, stride = TILE // scale, STRIDE // scale
    for top in range(0, x.shape[-2], stride):
        for left in range(0, x.shape[-1], stride):
            yield x[..., top : top + tile, left : left + tile]


def join(tiles: Sequence[Tensor], height: int, width: int, scale: int) -> Tensor:
    """Put tiles together, fading each into the one below it and the one at its right.

    Args:
        tiles: As many and as large as `cut` would give of the result, row after row; overwritten.
        height: Of the result.
        width: Of the result.
        scale: Pixels for each element of the result.
    """
    stride, overlap = STRIDE // scale, (TILE - STRIDE) // scale
    columns = -(-width // stride)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    lines = []
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if i > 0:
                _fade(rows[i - 1][j], tile, overlap, dim=-2)
            if j > 0:
                _fade(row[j - 1], tile, overlap, dim=-1)
        lines.append(torch.cat([tile[..., :stride, :stride] for tile in row], dim=-1))
    return torch.cat(lines, dim=-2)[..., :height, :width]


def _fade(before: Tensor, after: Tensor, overlap: int, dim: int) -> None:
    """Let the first `overlap` lines of `after` come out of the last ones of `before`."""
    overlap = min(before.shape[dim], after.shape[dim], overlap)
    share = torch.arange(overlap, device=after.device, dtype=torch.float32) / overlap
    share = share.unsqueeze(-1) if dim == -2 else share
    old = before.narrow(dim, before.shape[dim] - overlap, overlap).float()
    new = after.narrow(dim, 0, overlap)
    new.copy_(old * (1 - share) + new.float() * share)
