"""Linear layers in 8-bit floating point, one scale for every row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.kernels.fused import Quantised, quantise_rows

LEAST_CAPABILITY = (8, 9)
"""Ada and Hopper are the first with fp8 tensor cores."""


Precision = Literal["bf16", "fp8", "fp8-weights"]
"""Of the large products: as loaded; weights and inputs in e4m3; weights alone, cast before every product."""


class CastLinear(nn.Module):
    """A linear layer whose weight is stored as e4m3 with a scale for each output, and multiplied in the inputs' type.

    It saves memory and no time, and needs no particular card.

    Args:
        linear: The layer to take over; its weight is given up.
    """

    weight: Tensor
    """(out, in) e4m3."""
    scale: Tensor
    """(out, 1) float32."""
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_rows(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else linear.bias.data
        # Beside float16 weights inputs are float32.
        self.register_buffer("bias", bias.float() if bias is not None and bias.dtype is torch.float16 else bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: (..., in) to (..., out), in the dtype of `x`."""
        return F.linear(x, self.dense(x.dtype), self.bias)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as a matrix of that type, (out, in)."""
        return self.weight.to(dtype) * self.scale.to(dtype)


class Fp8Linear(nn.Module):
    """A linear layer whose weight is e4m3 with a scale for each output, and whose input is quantised by rows.

    The product runs on fp8 tensor cores and leaves in bfloat16. A row's scale is its greatest magnitude over
    the greatest that e4m3 has, so nothing overflows and outliers of one token do not cost the others precision.

    Args:
        linear: The layer to take over; its weight is given up.
    """

    weight: Tensor
    """(out, in) e4m3."""
    scale: Tensor
    """(1, out) float32."""
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_rows(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.data)

    def forward(self, x: Tensor | Quantised) -> Tensor:
        """Multiply: (..., in), bfloat16 or quantised already, to (..., out) bfloat16."""
        values, scale = x if isinstance(x, Quantised) else quantise_rows(x)
        product: Tensor = torch._scaled_mm(
            values.flatten(0, -2),
            self.weight.t(),
            scale_a=scale.flatten(0, -2),
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return product.view(*values.shape[:-1], -1)


def has_fp8(device: torch.device) -> bool:
    """Whether a device has fp8 tensor cores."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def resolve_precision(asked: str, in_8_bits: bool, device: torch.device, dtype: torch.dtype) -> Precision:
    """Decide how the large products are computed.

    Args:
        asked: The setting, ``bf16`` or ``fp8``.
        in_8_bits: Whether the placement stores their weights in 8 bits.
        device: Where they are computed.
        dtype: The compute type.

    Raises:
        ConfigurationError: fp8 is asked for, and the device has none, or leaves products in bfloat16 beside float16.
    """
    if asked == "fp8":
        require_fp8(device)
        if dtype is torch.float16:
            raise ConfigurationError("precision fp8 gives bfloat16, and dtype is float16; use dtype bfloat16 or auto")
        return "fp8"
    if not in_8_bits:
        return "bf16"
    return "fp8" if has_fp8(device) and dtype is not torch.float16 else "fp8-weights"


def require_fp8(device: torch.device) -> None:
    """Refuse devices without fp8 tensor cores.

    Raises:
        ConfigurationError: naming the device and what to use instead.
    """
    if device.type != "cuda":
        raise ConfigurationError(
            f"precision fp8 needs an NVIDIA card with fp8 tensor cores, not {device.type}; use bf16"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        found = ".".join(map(str, capability))
        raise ConfigurationError(f"{name} has compute capability {found}; precision fp8 needs 8.9 or newer; use bf16")
