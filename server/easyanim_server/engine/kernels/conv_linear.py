"""Matrix products on a CPU, by whichever of torch's two libraries is faster on its processor.

Torch hands products in float32 to MKL, which on processors of another maker takes up to twice as long as oneDNN, to
which torch hands convolutions. And a linear layer is a convolution of single pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger(__name__)

ROWS, COLUMNS = 704, 1024
"""Of the product that is measured: a small video's tokens."""

MEASUREMENTS = 7
"""Of each way, of which the least counts."""

CLEARLY = 0.8
"""Share of the other's time under which a way is chosen: where they are alike, every start is to choose the same."""


class ConvolvedLinear(nn.Module):
    """A linear layer that convolves; it shares the weights of another one.

    Args:
        linear: Whose weights.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: (..., in) to (..., out)."""
        pixels = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last
        y = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


@cache
def convolving_is_faster(dtype: torch.dtype) -> bool:
    """Whether `ConvolvedLinear` is clearly faster than a linear layer on this processor; measured once."""
    linear = nn.Linear(COLUMNS, COLUMNS, dtype=dtype).requires_grad_(False)
    x = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(dtype)
    ways: list[Callable[[Tensor], Tensor]] = [linear, ConvolvedLinear(linear)]
    seconds = [[_seconds(way, x) for way in ways] for _ in range(1 + MEASUREMENTS)]  # in turns; the first warms up
    by_product, by_convolution = (min(times) for times in zip(*seconds[1:], strict=True))
    log.info("a product takes %.2f ms, as a convolution %.2f ms", by_product * 1e3, by_convolution * 1e3)
    return bool(by_convolution < CLEARLY * by_product)


def _seconds(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    began = time.perf_counter()
    way(x)
    return time.perf_counter() - began
