"""Arguments of the fused kernels, and comparisons of what they return."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from easyanim_server.engine.kernels import fused as kernels
from easyanim_server.engine.kernels.fused import Quantised

BATCH, TOKENS, TEXTS, HEADS, CHANNELS = 2, 11, 3, 3, 32
DIM = HEADS * CHANNELS
EPS = 1e-5

has_triton = pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")


class Inputs:
    """Random arguments, by default at a size that a CPU computes at once."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        *,
        batch: int = BATCH,
        tokens: int = TOKENS,
        texts: int = TEXTS,
        heads: int = HEADS,
        channels: int = CHANNELS,
    ) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        dim = heads * channels
        self.texts, self.heads = texts, heads
        self.x = draw(batch, tokens, dim) * 2 + 0.5
        self.branch = [draw(batch, texts, dim), draw(batch, tokens - texts, dim)]
        self.modulation, self.gates = draw(batch, 2, 3, dim), draw(batch, 2, 3, dim)
        self.norm = nn.LayerNorm(dim, EPS, device=device, dtype=dtype).requires_grad_(False)
        self.norm.weight.copy_(draw(dim))
        self.norm.bias.copy_(draw(dim))
        self.qkv = [draw(batch, texts, 3 * dim), draw(batch, tokens - texts, 3 * dim)]
        self.qk_norms = [draw(2, 2, channels), draw(2, 2, channels)]
        angles = torch.rand(tokens, channels // 2, generator=generator, device=device).repeat_interleave(2, -1) * 6
        self.rope = (angles.cos(), angles.sin())

    def calls(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Every operator with its arguments, by name."""
        weight, bias = self.norm.weight, self.norm.bias
        calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "add_gate": (kernels._add_gate, (self.x, self.branch, self.gates, self.texts)),
            "gelu_quantise": (kernels._gelu_quantise, (self.x,)),
            "quantise_rows": (kernels._quantise_rows, (self.x[:, 1:],)),
            "qk_norm_rotate of one product": (
                kernels._qk_norm_rotate,
                ([torch.cat(self.qkv, 1)], self.qk_norms[:1], 1e-6, *self.rope, self.heads, 1.0),
            ),
            "qk_norm_rotate of two": (
                kernels._qk_norm_rotate,
                (self.qkv, self.qk_norms, 1e-6, *self.rope, self.heads, 0.25),
            ),
        }
        for suffix, quantise in (("", False), (" quantised", True)):
            end = (weight, bias, EPS, self.modulation, self.texts, quantise)
            calls["norm_modulate" + suffix] = (kernels._norm_modulate, (self.x, *end))
            for joined, branch in (("", self.branch), (" joined", [torch.cat(self.branch, 1)])):
                calls["add_gate_norm_modulate" + joined + suffix] = (
                    kernels._add_gate_norm_modulate,
                    (self.x, branch, self.gates, *end),
                )
        return calls


CALLS = sorted(Inputs().calls())


def plain(x: Tensor | Quantised) -> Tensor:
    """What quantised rows stand for; others as they are. float64."""
    return x.values.double() * x.scale.double() if isinstance(x, Quantised) else x.double()


def compare(name: str, got: Any, expected: Any, tolerance: float) -> None:
    if isinstance(got, Tensor):
        got, expected = [got], [expected]
    assert len(got) == len(expected), name
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")
