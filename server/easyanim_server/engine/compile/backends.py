"""What runs the transformer's blocks for one shape: themselves, what a compiler made of them, or TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.compile import tensorrt
from easyanim_server.engine.families.easyanimate_v51.block import Block, Rope
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS
from easyanim_server.engine.families.easyanimate_v51.transformer import Denoiser, ExecutionPath

BACKENDS = ("eager", "inductor", "tensorrt")

MAX_SHAPES = 256
"""Compiled variants of a block that dynamo keeps; its default of 8 would silently run the fifth bucket eagerly."""

TIMESTEP = 500.0
"""Of predictions that are made to build, compare and measure: any will do."""


@dataclass(frozen=True)
class Inputs:
    """One prediction's inputs, the same on every run."""

    latents: Tensor
    """(batch, channels, latent frames, rows, columns)."""
    timestep: Tensor
    """(batch,)."""
    text: Tensor
    """(batch, tokens, hidden)."""
    inpaint: Tensor
    """(batch, further input channels, latent frames, rows, columns)."""


class Backends:
    """Builds paths through a denoiser's blocks, and runs them on random inputs.

    Args:
        denoiser: Whose blocks.
        geometry: Of the model.
        device: Where they compute; by default where their weights are.
    """

    def __init__(self, denoiser: Denoiser, geometry: Geometry, device: torch.device | None = None) -> None:
        self._denoiser = denoiser
        self._geometry = geometry
        weight = next(denoiser.transformer.parameters())
        self.device, self.dtype = device or weight.device, weight.dtype
        self._compiled: list[Callable[..., Tensor]] | None = None

    @property
    def blocks(self) -> list[Block]:
        """The denoiser's."""
        return [block for block in self._denoiser.blocks if isinstance(block, Block)]

    def build(self, backend: str, bucket: Bucket, kernel: str) -> Sequence[Callable[..., Tensor]]:
        """What runs in the blocks' place; compilers compile when it is called for the first time with a shape.

        Args:
            backend: One of `BACKENDS`.
            bucket: The video's shape.
            kernel: The attention kernel.

        Raises:
            ConfigurationError: the device cannot run this backend.
            Exception: whatever a compiler raises.
        """
        if backend == "eager":
            return self._denoiser.eager.blocks
        if backend == "tensorrt":
            return tensorrt.build(self.blocks, self._example(bucket), kernel)
        if self._compiled is None:  # once for all shapes: another wrapper would compile all of them again
            self._compiled = [torch.compile(block.forward, fullgraph=True, dynamic=False) for block in self.blocks]
        return self._compiled

    def predict(self, bucket: Bucket, path: ExecutionPath, batch: int = 1) -> Tensor:
        """Velocities for inputs that are the same every time; waits until they are there."""
        given = self.inputs(bucket, batch)
        with torch._dynamo.config.patch(recompile_limit=MAX_SHAPES, accumulated_recompile_limit=4 * MAX_SHAPES):
            velocity: Tensor = self._denoiser(given.latents, given.timestep, given.text, given.inpaint, path)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return velocity

    def inputs(self, bucket: Bucket, batch: int = 1) -> Inputs:
        """Random inputs of a bucket's shape; all samples of a batch are the same."""
        config = self._denoiser.transformer.config
        generator = torch.Generator().manual_seed(0)
        channels, *size = self._geometry.latent_shape(bucket)

        def draw(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator).to(self.device, self.dtype)
            return torch.stack([drawn] * batch)

        return Inputs(
            latents=draw(channels, *size),
            timestep=torch.full((batch,), TIMESTEP, device=self.device, dtype=self.dtype),
            text=draw(MAX_TOKENS, config.text_embed_dim),
            inpaint=draw(config.in_channels - channels, *size),
        )

    def attention_shape(self, bucket: Bucket) -> torch.Size:
        """Of queries, keys and values of one prediction: (1, tokens, heads, channels)."""
        config = self._denoiser.transformer.config
        tokens = MAX_TOKENS + self._geometry.video_tokens(bucket)
        return torch.Size((1, tokens, config.num_attention_heads, config.attention_head_dim))

    def _example(self, bucket: Bucket) -> tensorrt.Example:
        """What the first block is called with."""
        if self.device.type != "cuda":
            raise ConfigurationError(f"TensorRT needs an NVIDIA card, not {self.device.type}")
        given: list[tensorrt.Example] = []

        def note(x: Tensor, emb: Tensor, rope: Rope, texts: int, kernel: str) -> Tensor:
            given.append(tensorrt.Example(x, emb, rope, texts))
            return x[:, texts:]

        self.predict(bucket, ExecutionPath([note]))
        return given[0]
