"""What lies between a block's products: norms and modulation, gates, rotation, GELU, rows in 8-bit floating point.

Every function is bound by memory, so each makes few passes: on CUDA one, by a kernel in Triton, on the CPU by other
torch operators than those that define it. All compute in float32 and round once, at the end. They are operators of
their own, which compilers call and do not look into: what Inductor generates for the same takes up to four times as
long.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.engine.kernels.definitions import E4M3, by_heads, gated, normed, plain_layer_norm, rotate, scaled


class Quantised(NamedTuple):
    """Rows in 8-bit floating point; `values * scale` is what they stand for."""

    values: Tensor
    """(..., columns) e4m3."""
    scale: Tensor
    """(..., 1) float32."""


def norm_modulate(x: Tensor, norm: nn.LayerNorm, modulation: Tensor, texts: int, quantise: bool) -> Tensor | Quantised:
    """Normalise every token, then scale and shift it as its kind is.

    Args:
        x: (batch, tokens, dim).
        norm: Weight, bias and epsilon of the LayerNorm over dim.
        modulation: (batch, 2, 3, dim): of video, then of text; shift, scale, and a gate that is not used here.
        texts: How many of the tokens are text; they come first.
        quantise: Whether to return rows in 8-bit floating point.

    Returns:
        (batch, tokens, dim), in the dtype of `x` or quantised.
    """
    return _rows(_norm_modulate(x, norm.weight, norm.bias, norm.eps, modulation, texts, quantise))


def add_gate(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int) -> Tensor:
    """Add to every token what a branch made of it, through the gate of its kind.

    Args:
        x: (batch, tokens, dim).
        branch: Of all tokens, or of text and of video, (batch, tokens of that kind, dim) each.
        gates: (batch, 2, 3, dim), a table as in `norm_modulate`, of which only the gates are used.
        texts: How many of the tokens are text; they come first.

    Returns:
        Of the shape and dtype of `x`.
    """
    total: Tensor = _add_gate(x, branch, gates, texts)
    return total


def add_gate_norm_modulate(
    x: Tensor,
    branch: list[Tensor],
    gates: Tensor,
    norm: nn.LayerNorm,
    modulation: Tensor,
    texts: int,
    quantise: bool,
) -> tuple[Tensor, Tensor | Quantised]:
    """`add_gate`, then `norm_modulate` of the sum; returns both."""
    total, *rows = _add_gate_norm_modulate(
        x, branch, gates, norm.weight, norm.bias, norm.eps, modulation, texts, quantise
    )
    return total, _rows(rows)


def qk_norm_rotate(
    qkv: list[Tensor], norms: list[Tensor], eps: float, rope: tuple[Tensor, Tensor], heads: int, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Take queries, keys and values out of their product; normalise queries and keys by heads, and rotate them.

    Values are copied even where they all lie in one product: attention reads them many times, and strided rows cost
    it more than the copy does.

    Args:
        qkv: Of all tokens, or of text and of video, (batch, tokens of that kind, 3 * heads * channels) each.
        norms: For each of `qkv`, (2, 2, channels): of queries, then of keys; weight and bias of a LayerNorm over
            channels.
        eps: Of those norms.
        rope: Cosines and sines of every token's angles, (tokens, channels) float32, by which pairs of neighbouring
            channels turn.
        heads: How many; channels are a power of two on CUDA.
        scale: What queries are multiplied by before they are rounded.

    Returns:
        Queries, keys and values, (batch, tokens, heads, channels) each, contiguous, in the dtype of `qkv`.
    """
    q, k, v = _qk_norm_rotate(qkv, norms, eps, *rope, heads, scale)
    return q, k, v


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer and GELU, in its tanh form: (..., in) to (..., out), weight (out, in), bias (out,)."""
    y: Tensor = _linear_gelu(x, weight, bias)
    return y


def gelu_quantise(x: Tensor) -> Quantised:
    """GELU, in its tanh form, in 8-bit floating point: (..., columns), any floating type, to the same shape."""
    return Quantised(*_gelu_quantise(x))


def quantise_rows(x: Tensor) -> Quantised:
    """Scale every row into e4m3's range: (..., columns), any floating type, to the same shape."""
    return Quantised(*_quantise_rows(x))


def _rows(outputs: list[Tensor]) -> Tensor | Quantised:
    return outputs[0] if len(outputs) == 1 else Quantised(*outputs)


# The operators: each body is the definition. `_on_cuda` and `_on_cpu` put functions of the same name in its place.


def _on_cuda(operator: Any, name: str) -> None:
    """Let `operator` run the function of that name in `kernels_triton` on CUDA, where there is Triton."""
    if not find_spec("triton"):
        return

    def launch(*args: Any) -> Any:
        from easyanim_server.engine.kernels import fused_triton as kernels_triton  # importing Triton takes a second

        first = args[0] if isinstance(args[0], Tensor) else args[0][0]
        with torch.cuda.device(first.device):
            return getattr(kernels_triton, name)(*args)

    operator.register_kernel("cuda")(launch)


def _on_cpu(operator: Any, name: str) -> None:
    """Let `operator` run the function of that name in `kernels_cpu` on the CPU."""

    def run(*args: Any) -> Any:
        from easyanim_server.engine.kernels import fused_cpu as kernels_cpu  # which needs this module

        return getattr(kernels_cpu, name)(*args)

    operator.register_kernel("cpu")(run)


@torch.library.custom_op("easyanim::norm_modulate", mutates_args=())
def _norm_modulate(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, modulation: Tensor, texts: int, quantise: bool
) -> list[Tensor]:
    return normed(x, weight, bias, eps, modulation, texts, quantise)


@torch.library.custom_op("easyanim::add_gate", mutates_args=())
def _add_gate(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int) -> Tensor:
    return gated(x, branch, gates, texts)


@torch.library.custom_op("easyanim::add_gate_norm_modulate", mutates_args=())
def _add_gate_norm_modulate(
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
    total = gated(x, branch, gates, texts)
    return [total, *normed(total, weight, bias, eps, modulation, texts, quantise)]


@torch.library.custom_op("easyanim::qk_norm_rotate", mutates_args=())
def _qk_norm_rotate(
    qkv: list[Tensor], norms: list[Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, scale: float
) -> list[Tensor]:
    products = [by_heads(product, heads) for product in qkv]
    joint = []
    for part, factor in ((0, scale), (1, 1.0)):  # queries, keys
        y = torch.cat(
            [
                F.layer_norm(product[part].float(), cos.shape[-1:], norm[part, 0].float(), norm[part, 1].float(), eps)
                for product, norm in zip(products, norms, strict=True)
            ],
            dim=1,
        )
        joint.append((rotate(y, (cos, sin)) * factor).to(qkv[0].dtype))
    return [*joint, torch.cat([product[2] for product in products], dim=1)]


# cuBLASLt applies GELU before a product leaves its registers; Inductor would take the two apart again.
@torch.library.custom_op("easyanim::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.is_cuda:
        rows: Tensor = torch.ops.aten._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return rows.view(*x.shape[:-1], -1)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


@torch.library.custom_op("easyanim::gelu_quantise", mutates_args=())
def _gelu_quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    return scaled(F.gelu(x.float(), approximate="tanh"))


@torch.library.custom_op("easyanim::quantise_rows", mutates_args=())
def _quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    return scaled(x.float())


@_norm_modulate.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, modulation: Tensor, texts: int, quantise: bool) -> Any:
    return list(_empty_quantised(x)) if quantise else [x.new_empty(x.shape)]


@_add_gate.register_fake
def _(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int) -> Tensor:
    return x.new_empty(x.shape)


@_add_gate_norm_modulate.register_fake
def _(
    x: Tensor,
    branch: list[Tensor],
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    modulation: Tensor,
    texts: int,
    quantise: bool,
) -> Any:
    return [x.new_empty(x.shape), *(_empty_quantised(x) if quantise else [x.new_empty(x.shape)])]


@_qk_norm_rotate.register_fake
def _(qkv: list[Tensor], norms: list[Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, scale: float) -> Any:
    tokens = sum(product.shape[1] for product in qkv)
    return [qkv[0].new_empty(qkv[0].shape[0], tokens, heads, cos.shape[-1]) for _ in range(3)]


@_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _empty_quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=E4M3), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


_gelu_quantise.register_fake(_empty_quantised)
_quantise_rows.register_fake(_empty_quantised)

_on_cuda(_norm_modulate, "norm_modulate")
_on_cuda(_add_gate, "add_gate")
_on_cuda(_add_gate_norm_modulate, "add_gate_norm_modulate")
_on_cuda(_qk_norm_rotate, "qk_norm_rotate")
_on_cuda(_gelu_quantise, "gelu_quantise")
_on_cuda(_quantise_rows, "quantise_rows")

_on_cpu(_norm_modulate, "norm_modulate")
_on_cpu(_add_gate, "add_gate")
_on_cpu(_add_gate_norm_modulate, "add_gate_norm_modulate")
_on_cpu(_qk_norm_rotate, "qk_norm_rotate")
_on_cpu(_linear_gelu, "linear_gelu")


_DEFINED = (_norm_modulate, _add_gate, _add_gate_norm_modulate, _qk_norm_rotate, _gelu_quantise, _quantise_rows)
DEFINITIONS: dict[Any, Any] = {operator._opoverload: operator._init_fn for operator in _DEFINED} | {
    _linear_gelu._opoverload: lambda x, weight, bias: F.gelu(F.linear(x, weight, bias), approximate="tanh"),
    torch.ops.aten.layer_norm.default: lambda x, _, weight, bias, eps, *__: plain_layer_norm(x, weight, bias, eps),
}
"""Every operator in terms of torch's own, for compilers that have to look into them."""
