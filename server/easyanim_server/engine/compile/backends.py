"""What runs the transformer's blocks for one shape: themselves, what a compiler made of them, or TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.engine.compile import tensorrt
from easyanim_server.engine.families.runtime import ExecutionPath, Rope
from easyanim_server.engine.prediction import Predictor

BACKENDS = ("eager", "inductor", "tensorrt")

MAX_SHAPES = 256
"""Compiled variants of a block that dynamo keeps; its default of 8 would silently run the fifth bucket eagerly."""


class Backends:
    """Builds paths through a denoiser's blocks, and runs them on random inputs.

    Args:
        predictor: Runs the denoiser whose blocks these are.
        device: Where they compute.
    """

    def __init__(self, predictor: Predictor, device: torch.device) -> None:
        self._predictor = predictor
        self._denoiser = predictor.denoiser
        self.device, self.dtype = device, next(self._denoiser.network.parameters()).dtype
        self._compiled: list[Callable[..., Tensor]] | None = None

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
            return tensorrt.build(self._denoiser.blocks, self._example(bucket), kernel)
        if self._compiled is None:  # once for all shapes: another wrapper would compile all of them again
            self._compiled = [
                torch.compile(block.forward, fullgraph=True, dynamic=False) for block in self._denoiser.blocks
            ]
        return self._compiled

    def predict(self, bucket: Bucket, path: ExecutionPath, batch: int = 1) -> Tensor:
        """A prediction for inputs that are the same every time; waits until it is there."""
        inputs, condition = self._denoiser.example(bucket, self.device, batch)
        with torch._dynamo.config.patch(recompile_limit=MAX_SHAPES, accumulated_recompile_limit=4 * MAX_SHAPES):
            (predicted,) = self._predictor.predict(inputs, [condition], path)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return predicted

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
