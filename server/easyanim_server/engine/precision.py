"""Linear layers in 8-bit floating point, one scale for every row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from easyanim_server.engine.kernels import Quantised, quantise_rows
from easyanim_server.errors import ConfigurationError

LEAST_CAPABILITY = (8, 9)
"""Ada and Hopper are the first with fp8 tensor cores."""


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
