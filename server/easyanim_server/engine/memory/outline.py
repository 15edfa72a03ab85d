"""What a model weighs and how wide it is, whatever family it is of; measured without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from easyanim_server.domain.shape import Geometry, VideoShape


class StepCost(Protocol):
    """Operations of matrix products; a multiplication and an addition count as two."""

    @property
    def linear(self) -> int:
        """Of products with weights."""

    @property
    def attention(self) -> int:
        """Of products of tokens with tokens."""


@dataclass(frozen=True)
class Outline:
    """All that a prediction of a model's memory and time needs."""

    geometry: Geometry
    text_tokens: int
    """Tokens of a prompt that the denoiser sees beside the video's."""
    width: int
    """Numbers for each token in the denoiser."""
    step_cost: Callable[[int], StepCost]
    """Of a guided step, by the number of video tokens."""
    text: int
    """Bytes of the text encoder; of which `text_table` are its embeddings and `text_layer` is the largest layer."""
    text_table: int
    text_layer: int
    rest: int
    """Bytes of the denoiser outside its blocks."""
    blocks: tuple[int, ...]
    """Bytes of each block as loaded."""
    blocks_fp8: tuple[int, ...]
    """Bytes of each block with its large products in 8 bits."""
    vae: int
    """Bytes of the VAE."""
    vae_channels: int
    """Of its widest layer in pixels' resolution."""
    vae_tile: int
    """Pixels of a side of its tiles, where it works on tiles."""
    itemsize: int
    """Bytes of a number in the compute type."""

    @property
    def total(self) -> int:
        """Bytes of all networks as loaded."""
        return self.text + self.rest + sum(self.blocks) + self.vae

    def is_cut(self, shape: VideoShape) -> bool:
        """Whether a video is more than one tile."""
        return max(shape.height, shape.width) > self.vae_tile
