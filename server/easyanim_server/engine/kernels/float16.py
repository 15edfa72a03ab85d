"""Networks whose weights are float16, with float32 between their products.

Float16 ends at 65504, which the tokens of large networks exceed. So they stay in float32 from block to block, and so do
norms, gates and sums. Only products are computed in float16, where they are fast: each row of their input is divided by
its greatest magnitude first, so nothing overflows but products with weights whose own sums do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

TINY = 1e-30
"""Least that rows are divided by: those of zeros stay zeros."""


class ScaledLinear(nn.Linear):
    """A linear layer with a float16 product, of and to float32 rows of any size."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: (..., in), any floating type, to (..., out) float32."""
        if self.weight.dtype is not torch.float16:  # a copy that was made to compare with
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        rows, scale = unit_rows(x, -1)
        product = F.linear(rows, self.weight).float() * scale
        return product if self.bias is None else product + self.bias.float()


class WideConv2d(nn.Conv2d):
    """A convolution in float32, whose weight is converted at every call: for small ones."""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv2d`; returns float32."""
        bias = None if self.bias is None else self.bias.float()
        y: Tensor = self._conv_forward(x.float(), self.weight.float(), bias)
        return y


class WideLayerNorm(nn.LayerNorm):
    """A norm in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.LayerNorm`; returns float32."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


class WideEmbedding(nn.Embedding):
    """A table of which float32 rows are taken."""

    def forward(self, ids: Tensor) -> Tensor:
        """See `nn.Embedding`; returns float32."""
        return super().forward(ids).float()


class WideFeedForward(T5DenseActDense):
    """T5's feed-forward branch without the stock one's return to the weights' type before the last product."""

    def forward(self, x: Tensor) -> Tensor:
        """See the stock class; returns float32."""
        narrowed: Tensor = self.wo(self.act(self.wi(x)))
        return narrowed


class WideGatedFeedForward(T5DenseGatedActDense):
    """The same with a gate: the product of two branches, which overflows first of all in T5."""

    def forward(self, x: Tensor) -> Tensor:
        """See the stock class; returns float32."""
        narrowed: Tensor = self.wo(self.act(self.wi_0(x)) * self.wi_1(x))
        return narrowed


WIDE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ScaledLinear,
    nn.Conv2d: WideConv2d,
    nn.LayerNorm: WideLayerNorm,
    nn.Embedding: WideEmbedding,
    T5DenseActDense: WideFeedForward,
    T5DenseGatedActDense: WideGatedFeedForward,
}
"""What takes the place of which layers. Other norms take float32 and give what is small."""


def widen(network: nn.Module) -> None:
    """Let a network with float16 weights compute in float32 between products; others stay as they are.

    Layers change their class, so weights, names and what else refers to them stay.
    """
    first = next(network.parameters(), None)
    if first is None or first.dtype is not torch.float16:
        return
    for module in network.modules():
        if type(module) in WIDE:
            module.__class__ = WIDE[type(module)]


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type of what is not to be rounded to float16: float32 for float16, others themselves."""
    return torch.float32 if dtype is torch.float16 else dtype


def unit_rows(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Divide by the greatest magnitude along `dim`.

    Returns:
        Float16 numbers up to 1, of the shape of `x`; and the float32 divisors, with 1 along `dim`.
    """
    x = x.float()
    scale = x.abs().amax(dim, keepdim=True).clamp_min(TINY)
    return (x / scale).to(torch.float16), scale
