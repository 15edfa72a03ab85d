"""Rotary angles of video tokens, by either of two formulas for their rows and columns.

Rows and columns are taken from a crop of a grid of 30 x 45 tokens, so that their range hardly depends on the video's
size. EasyAnimate's authors trained with diffusers 0.31.0 or older, where row i of n stands at
``start + i * (stop - start) / n``. Later releases space rows evenly from ``start`` to ``stop * (n - 1) / n``, which is
the same where the crop starts at 0, and else off by up to ``start / n`` at the last row. Which of them a network was
trained with is a property of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.runtime import Rope

KEY = "rope_positions"
"""In ``transformer/config.json``: `original`, also where it is absent, or `diffusers`, for a network that was trained
with that library's later formula."""

FORMULAS = ("original", "diffusers")

BASE = (60, 90)
"""Height and width in latent pixels of the grid that crops are taken from."""

THETA = 10000.0


def formula(config: Mapping[str, Any], mode: AttentionMode) -> str:
    """The formula to compute with, one of `FORMULAS`.

    Args:
        config: Of the transformer.
        mode: `original` asks for what the network was trained with, `diffusers` for what that library computes.

    Raises:
        ValueError: the configuration names another formula.
    """
    trained = str(config.get(KEY, "original"))
    if trained not in FORMULAS:
        raise ValueError(f"{KEY} is {trained!r}; must be one of {', '.join(FORMULAS)}")
    return trained if mode == "original" else mode


def angles(frames: int, height: int, width: int, channels: int, patch: int) -> Rope:
    """Cosines and sines of the original formula, (frames * rows * columns, channels) float32 on the CPU.

    The first quarter of a head's channels turns with the frame, then three eighths each with the row and the column.

    Args:
        frames: Latent frames.
        height: Latent pixels, a multiple of `patch`, as is `width`.
        width: Latent pixels.
        channels: Of a head, a multiple of 16.
        patch: Latent pixels along each side of a token.

    Source: diffusers 0.31.0 ``get_3d_rotary_pos_embed``; EasyAnimate ``pipeline_easyanimate_inpaint.py``, c2a70d1.
    """
    rows, columns = height // patch, width // patch
    (top, left), (bottom, right) = _crop(rows, columns, BASE[0] // patch, BASE[1] // patch)
    size = (frames, rows, columns)
    parts = [
        _turns(_places(0, frames, frames), channels // 4).view(frames, 1, 1, -1),
        _turns(_places(top, bottom, rows), channels // 8 * 3).view(1, rows, 1, -1),
        _turns(_places(left, right, columns), channels // 8 * 3).view(1, 1, columns, -1),
    ]
    turned = torch.cat([part.expand(*size, -1) for part in parts], dim=-1).flatten(0, 2)
    return turned.cos(), turned.sin()


def _crop(rows: int, columns: int, base_rows: int, base_columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left and bottom right corner of the largest crop of the video's aspect from the middle of the base grid."""
    if rows / columns > base_rows / base_columns:
        height, width = base_rows, round(base_rows / rows * columns)
    else:
        height, width = round(base_columns / columns * rows), base_columns
    top, left = round((base_rows - height) / 2), round((base_columns - width) / 2)
    return (top, left), (top + height, left + width)


def _places(start: int, stop: int, count: int) -> Tensor:
    """So many places from `start`, evenly towards `stop`, which is not reached; (count,) float32."""
    return (torch.arange(count, dtype=torch.float64) * ((stop - start) / count) + start).float()


def _turns(places: Tensor, channels: int) -> Tensor:
    """Angles of each place, (places, channels): slower with each pair of channels, which turn together."""
    frequencies = 1.0 / THETA ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)
    return torch.outer(places, frequencies).repeat_interleave(2, dim=1)
