"""From decoded values to pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(video: Tensor) -> Tensor:
    """Turn decoded frames into pixels, rounding half to even as diffusers' `VideoProcessor` does.

    Args:
        video: (3, n, height, width); [-1, 1] is the visible range, the rest is clipped.

    Returns:
        (n, height, width, 3) uint8, on the same device.
    """
    unit = (video * 0.5 + 0.5).clamp(0, 1).float()
    return (unit * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()
