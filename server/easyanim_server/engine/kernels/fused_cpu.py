"""The functions of `kernels` for CPUs: the same bits as their definitions give, in fewer passes over memory.

Text and video tokens are worked on apart, so that no table of what every token is modulated by is made; pairs of
channels turn as complex numbers, which processors have vector instructions for; results go where a temporary lies.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from easyanim_server.engine.kernels.definitions import GATE, SCALE, SHIFT, TEXT, VIDEO, by_heads, scaled


def norm_modulate(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, modulation: Tensor, texts: int, quantise: bool
) -> list[Tensor]:
    """See `kernels.norm_modulate`."""
    y = F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps)
    for kind, tokens in _kinds(texts):
        table = modulation[:, kind, :, None].float()
        y[:, tokens].mul_(1 + table[:, SCALE]).add_(table[:, SHIFT])
    return list(scaled(y)) if quantise else [y.to(x.dtype)]


def add_gate(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int) -> Tensor:
    """See `kernels.add_gate`."""
    joint = branch[0] if len(branch) == 1 else torch.cat(branch, dim=1)
    total = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    for kind, tokens in _kinds(texts):
        torch.mul(joint[:, tokens].float(), gates[:, kind, GATE, None].float(), out=total[:, tokens])
    return total.add_(x).to(x.dtype)


def add_gate_norm_modulate(
    x: Tensor,
    branch: list[Tensor],
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    modulation: Tensor,
    texts: int,
    quantise: bool,
) -> list[Tensor]:
    """See `kernels.add_gate_norm_modulate`."""
    total = add_gate(x, branch, gates, texts)
    return [total, *norm_modulate(total, weight, bias, eps, modulation, texts, quantise)]


def qk_norm_rotate(
    qkv: list[Tensor], norms: list[Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, scale: float
) -> list[Tensor]:
    """See `kernels.qk_norm_rotate`."""
    products = [by_heads(product, heads) for product in qkv]
    turn = torch.complex(cos[:, ::2], sin[:, ::2]).unsqueeze(1)  # (tokens, 1, channels / 2)
    joint = []
    for part, factor in ((0, scale), (1, 1.0)):  # queries, keys
        parts = [
            F.layer_norm(product[part].float(), cos.shape[-1:], norm[part, 0].float(), norm[part, 1].float(), eps)
            for product, norm in zip(products, norms, strict=True)
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        torch.view_as_complex(torch.unflatten(y, -1, (-1, 2))).mul_(turn)
        joint.append((y if factor == 1.0 else y.mul_(factor)).to(qkv[0].dtype))
    values = torch.cat([product[2] for product in products], dim=1)
    return [*joint, values.contiguous()]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `kernels.linear_gelu`."""
    y: Tensor = torch.ops.aten.gelu_(F.linear(x, weight, bias), approximate="tanh")
    return y


def _kinds(texts: int) -> list[tuple[int, slice]]:
    return [(TEXT, slice(None, texts)), (VIDEO, slice(texts, None))]
