"""The noise that a generation starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyanim_server.domain.job import Bucket


@dataclass(frozen=True, eq=False)
class Noise:
    """Standard normal draws, float32 on the host."""

    latents: Tensor
    """(1, channels, latent frames, rows, columns)."""
    pictures: Tensor | None
    """(3, frames, height, width), of which given frames get theirs; None where none is given."""

    @classmethod
    def draw(cls, seed: int, bucket: Bucket, latents: tuple[int, ...], given: bool) -> Noise:
        """Draw for latents first, then for pictures, as the original does, so a seed means the same on every device.

        Args:
            seed: Of all draws.
            bucket: Shape of the video.
            latents: Shape of its latents.
            given: Whether pictures are given.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        of_latents = torch.randn(latents, generator=generator)
        size = (3, bucket.frames, bucket.height, bucket.width)
        return cls(of_latents, torch.randn(size, generator=generator) if given else None)
