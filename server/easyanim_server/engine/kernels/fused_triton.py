"""The operators of `kernels` in Triton: the same arguments; every row is read once and kept in registers.

Inputs are contiguous in their last dimension; their other strides are free, so slices of tokens need no copy.
"""

# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
# Triton has no types, and its functions no values that Python's could describe.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from easyanim_server.engine.kernels.definitions import E4M3, E4M3_MAX, GATE, LEAST_MAGNITUDE, SCALE, SHIFT, TEXT, VIDEO

_SHIFT, _SCALE, _GATE = tl.constexpr(SHIFT), tl.constexpr(SCALE), tl.constexpr(GATE)
_E4M3_MAX, _LEAST_MAGNITUDE = tl.constexpr(E4M3_MAX), tl.constexpr(LEAST_MAGNITUDE)
_TWICE_SQRT_2_PI = tl.constexpr(2 * (2 / torch.pi) ** 0.5)


def norm_modulate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    modulation: Tensor,
    texts: int,
    quantise: bool,
    rows_each: int = 4,
    warps: int = 4,
) -> list[Tensor]:
    """See `kernels.norm_modulate`."""
    rows = _empty_quantised(x) if quantise else [_empty_like(x)]
    _launch_tokens(x, texts, (), None, None, (weight, bias, modulation), eps, rows, rows_each, warps)
    return rows


def add_gate(x: Tensor, branch: list[Tensor], gates: Tensor, texts: int, rows_each: int = 4, warps: int = 4) -> Tensor:
    """See `kernels.add_gate`."""
    total = _empty_like(x)
    _launch_tokens(x, texts, branch, gates, total, (None, None, None), 0.0, [None], rows_each, warps)
    return total


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
    rows_each: int = 4,
    warps: int = 4,
) -> list[Tensor]:
    """See `kernels.add_gate_norm_modulate`."""
    total = _empty_like(x)
    rows = _empty_quantised(x) if quantise else [_empty_like(x)]
    _launch_tokens(x, texts, branch, gates, total, (weight, bias, modulation), eps, rows, rows_each, warps)
    return [total, *rows]


def qk_norm_rotate(
    qkv: list[Tensor],
    norms: list[Tensor],
    eps: float,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    scale: float,
    heads_each: int = 64,
    warps: int = 4,
) -> list[Tensor]:
    """See `kernels.qk_norm_rotate`."""
    batch, channels = qkv[0].shape[0], cos.shape[-1]
    shape = (batch, sum(product.shape[1] for product in qkv), heads, channels)
    joint = [qkv[0].new_empty(shape) for _ in range(3)]
    first = 0
    for product, norm in zip(qkv, norms, strict=True):
        tokens = product.shape[1]
        _qk_norm_rotate[(tokens, triton.cdiv(heads, heads_each), batch)](
            product, norm, cos, sin, *joint,
            first, shape[1], product.stride(0), product.stride(1), heads, eps, scale,
            CHANNELS=channels, HEADS=heads_each, num_warps=warps,
        )  # fmt: skip
        first += tokens
    return joint


def gelu_quantise(x: Tensor, rows_each: int = 1, warps: int = 8) -> tuple[Tensor, Tensor]:
    """See `kernels.gelu_quantise`."""
    return _launch_quantise(x, True, rows_each, warps)


def quantise_rows(x: Tensor, rows_each: int = 1, warps: int = 4) -> tuple[Tensor, Tensor]:
    """See `kernels.quantise_rows`."""
    return _launch_quantise(x, False, rows_each, warps)


def _launch_tokens(
    x: Tensor,
    texts: int,
    branch: Sequence[Tensor],
    gates: Tensor | None,
    total: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, Tensor | None],
    eps: float,
    rows: Sequence[Tensor | None],
    rows_each: int,
    warps: int,
) -> None:
    """Text and video each have a launch, so that no row has to choose its vectors.

    Several rows share a program, which reads those vectors once: for every row anew, they would be four fifths of
    what is read, and the L2 cache the limit.
    """
    batch, tokens, dim = x.shape
    y, row_scale = (*rows, None)[:2]
    gates, modulation = (None if table is None else table.contiguous() for table in (gates, norm[2]))
    for kind, first, stop in ((TEXT, 0, texts), (VIDEO, texts, tokens)):
        if first == stop:
            continue
        part = None
        if branch:
            part = branch[0][:, first:stop] if len(branch) == 1 else branch[0 if kind == TEXT else 1]
        _tokens[(triton.cdiv(stop - first, rows_each), batch)](
            x, part, gates, total, norm[0], norm[1], modulation, y, row_scale,
            kind, first, stop, tokens, x.stride(0), x.stride(1),
            0 if part is None else part.stride(0), 0 if part is None else part.stride(1), eps,
            DIM=dim, COLUMNS=triton.next_power_of_2(dim), ROWS=rows_each, num_warps=warps,
        )  # fmt: skip


def _launch_quantise(x: Tensor, gelu: bool, rows_each: int, warps: int) -> tuple[Tensor, Tensor]:
    flat = x.flatten(0, -2)  # (rows, columns)
    rows, columns = flat.shape
    values, scale = _empty_quantised(x)
    _quantise[(triton.cdiv(rows, rows_each),)](
        flat, values, scale, rows, flat.stride(0), GELU=gelu,
        DIM=columns, COLUMNS=triton.next_power_of_2(columns), ROWS=rows_each, num_warps=warps,
    )  # fmt: skip
    return values, scale


def _empty_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)  # contiguous, whatever `x` is


def _empty_quantised(x: Tensor) -> list[Tensor]:
    return [x.new_empty(x.shape, dtype=E4M3), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)]


@triton.jit(do_not_specialize=["kind", "first", "stop", "tokens"])
def _tokens(
    x, branch, gates, total, weight, bias, modulation, y, row_scale,
    kind, first, stop, tokens, x_batch, x_row, branch_batch, branch_row, eps,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add a gated branch, if there is one; normalise and modulate, if there is `y`; quantise, if `row_scale`."""
    batch = tl.program_id(1).to(tl.int64)
    begin = first + tl.program_id(0).to(tl.int64) * ROWS
    column = tl.arange(0, COLUMNS)
    mask = column < DIM
    table = (batch * 2 + kind) * 3 * DIM + column  # (batch, kind, 3, dim)
    if branch is not None:
        gate = tl.load(gates + table + _GATE * DIM, mask, other=0).to(tl.float32)
    if y is not None:  # normalised * gain + offset is all that norm and modulation do
        factor = 1 + tl.load(modulation + table + _SCALE * DIM, mask, other=0).to(tl.float32)
        shift = tl.load(modulation + table + _SHIFT * DIM, mask, other=0).to(tl.float32)
        gain = tl.load(weight + column, mask, other=0).to(tl.float32) * factor
        offset = tl.load(bias + column, mask, other=0).to(tl.float32) * factor + shift
    for step in tl.range(ROWS, num_stages=1):
        row = begin + step
        live = mask & (row < stop)
        here = (batch * tokens + row) * DIM + column
        value = tl.load(x + batch * x_batch + row * x_row + column, live, other=0).to(tl.float32)
        if branch is not None:
            part = tl.load(branch + batch * branch_batch + (row - first) * branch_row + column, live, other=0)
            rounded = (value + gate * part.to(tl.float32)).to(x.dtype.element_ty)
            tl.store(total + here, rounded, live)
            value = rounded.to(tl.float32)
        if y is not None:
            centred = tl.where(mask, value - tl.sum(value, 0) / DIM, 0)
            value = centred * tl.rsqrt(tl.sum(centred * centred, 0) / DIM + eps) * gain + offset
            if row_scale is not None:
                scale = _scale_of(value)
                tl.store(row_scale + batch * tokens + row, scale, row < stop)
                value *= 1 / scale
            tl.store(y + here, value.to(y.dtype.element_ty), live)


@triton.jit(do_not_specialize=["rows"])
def _quantise(
    x, values, scales, rows, x_row,
    GELU: tl.constexpr, DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(0).to(tl.int64) * ROWS
    column = tl.arange(0, COLUMNS)
    mask = column < DIM
    for step in range(ROWS):
        row = begin + step
        live = mask & (row < rows)
        value = tl.load(x + row * x_row + column, live, other=0).to(tl.float32)
        if GELU:  # (1 + tanh(u)) / 2 is sigmoid(2 u)
            value *= tl.sigmoid(_TWICE_SQRT_2_PI * (value + 0.044715 * value * value * value))
        scale = _scale_of(value)
        tl.store(scales + row, scale, row < rows)
        tl.store(values + row * DIM + column, (value * (1 / scale)).to(values.dtype.element_ty), live)


@triton.jit
def _scale_of(row):
    return tl.maximum(tl.max(tl.abs(row), 0), _LEAST_MAGNITUDE) / _E4M3_MAX


@triton.jit(do_not_specialize=["first", "tokens"])
def _qk_norm_rotate(
    qkv, norm, cos, sin, q, k, v, first, tokens, qkv_batch, qkv_row, heads, eps, scale,
    CHANNELS: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One token and some of its heads; the token is number `first` + its own in the joint q, k and v."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0).to(tl.int64)
    token = first + row
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    channel = tl.arange(0, CHANNELS)
    within = head[:, None] * CHANNELS + channel[None, :]  # (heads, channels)
    mask = (head < heads)[:, None] & (channel < CHANNELS)[None, :]
    source = qkv + batch * qkv_batch + row * qkv_row + within
    here = (batch * tokens + token) * heads * CHANNELS + within
    cosines = tl.load(cos + token * CHANNELS + channel)
    sines = tl.load(sin + token * CHANNELS + channel)
    queries = tl.load(source, mask, other=0).to(tl.float32)
    keys = tl.load(source + heads * CHANNELS, mask, other=0).to(tl.float32)
    tl.store(v + here, tl.load(source + 2 * heads * CHANNELS, mask, other=0), mask)
    queries = _turned(_normalised(queries, norm, channel, eps, CHANNELS), cosines, sines, CHANNELS, HEADS)
    tl.store(q + here, (queries * scale).to(q.dtype.element_ty), mask)
    keys = _turned(_normalised(keys, norm + 2 * CHANNELS, channel, eps, CHANNELS), cosines, sines, CHANNELS, HEADS)
    tl.store(k + here, keys.to(k.dtype.element_ty), mask)


@triton.jit
def _normalised(x, norm, channel, eps, CHANNELS: tl.constexpr):
    """LayerNorm over the channels of (heads, channels)."""
    weight = tl.load(norm + channel).to(tl.float32)
    bias = tl.load(norm + CHANNELS + channel).to(tl.float32)
    centred = x - (tl.sum(x, 1) / CHANNELS)[:, None]
    return centred * tl.rsqrt(tl.sum(centred * centred, 1) / CHANNELS + eps)[:, None] * weight + bias


@triton.jit
def _turned(x, cosines, sines, CHANNELS: tl.constexpr, HEADS: tl.constexpr):
    """Turn pairs of neighbouring channels of (heads, channels) by one token's angles, (channels,)."""
    real, imaginary = tl.split(tl.reshape(x, (HEADS, CHANNELS // 2, 2)))
    cos_real, cos_imaginary = tl.split(tl.reshape(cosines, (CHANNELS // 2, 2)))
    sin_real, sin_imaginary = tl.split(tl.reshape(sines, (CHANNELS // 2, 2)))
    turned = tl.join(
        real * cos_real[None, :] - imaginary * sin_real[None, :],
        imaginary * cos_imaginary[None, :] + real * sin_imaginary[None, :],
    )
    return tl.reshape(turned, (HEADS, CHANNELS))
