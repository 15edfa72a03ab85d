"""The functions of `pointwise` as Triton kernels, for videos that lie in memory as (batch, frames, h, w, channels).

A frame of 384x672 with 128 channels in bfloat16 is 66 MB, and these kernels do nothing but move frames: a norm reads
twice and writes once, a sum reads what it adds and writes once. The work is cut into (tile of pixels, frame), and a
program goes through its tile in steps of `STEP` numbers. Sums are taken in float32 and always in the same order, so
the same input gives the same output.
"""
# Triton has no types, and its kernels' arguments are not what their bodies see.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STEP = 8192
"""Numbers that a program holds at once: 32 for each of its threads, four loads of 16 bytes in bfloat16."""
TILES = 256
"""Tiles of a frame, at most: a few programs for every processor of the GPU even where a chunk has one frame."""
WARPS = 8


def norm_silu(
    x: Tensor,
    bias: Tensor | None,
    past: Tensor | None,
    lead: int,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float,
) -> Tensor:
    """See `pointwise.norm_silu`; moments and activation are float32 inside."""
    x = _channels_last(x)
    batch, channels, frames, height, width = x.shape
    pixels = height * width
    tiles, steps, block = _tiling(pixels, channels)
    sums = x.new_empty((batch * frames, tiles, 2, channels), dtype=torch.float32)
    affine = x.new_empty((batch * frames, 2, channels), dtype=torch.float32)
    out = _empty(x, lead + frames, height, width)
    repeated = lead if past is None else 0  # frames in front that are made here
    if past is not None:
        out[:, :, :lead].copy_(past)
    with torch.cuda.device_of(x):
        _moments[(tiles, batch * frames)](x, bias, sums, pixels, steps, **block)
        _affine[(groups, batch * frames)](
            sums,
            bias,
            scale,
            shift,
            affine,
            tiles,
            pixels,
            eps,
            C=channels,
            GROUP=channels // groups,
            LANES=triton.next_power_of_2(channels // groups),
            TILES=TILES,
        )
        _norm_silu[(tiles, batch * (repeated + frames))](
            x, affine, out, pixels, steps, frames, repeated, lead - repeated, **block
        )
    return out


def resize(x: Tensor, factor: int, margin: int) -> Tensor:
    """See `pointwise.resize`."""
    x = _channels_last(x)
    batch, channels, frames, height, width = x.shape
    out = _empty(x, frames, factor * height + margin, factor * width + margin)
    pixels = out.shape[3] * out.shape[4]
    tiles, steps, block = _tiling(pixels, channels)
    with torch.cuda.device_of(x):
        _resize[(tiles, batch * frames)](x, out, height, width, pixels, steps, FACTOR=factor, MARGIN=margin, **block)
    return out


def add(y: Tensor, bias: Tensor | None, shortcut: Tensor | None, repeats: int) -> Tensor:
    """See `pointwise.add`."""
    if bias is None and shortcut is None and repeats == 1:
        return y
    y = _channels_last(y)
    batch, channels, frames, height, width = y.shape
    out = y if repeats == 1 else _empty(y, repeats * frames, height, width)
    shortcut = None if shortcut is None else _channels_last(shortcut)
    tiles, steps, block = _tiling(height * width, channels)
    with torch.cuda.device_of(y):
        _add[(tiles, batch * repeats * frames)](y, bias, shortcut, out, height * width, steps, repeats, **block)
    return out


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)  # convolutions return it so


def _empty(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    shape = (*x.shape[:2], frames, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _tiling(pixels: int, channels: int) -> tuple[int, int, dict[str, int]]:
    """Tiles of a frame, steps of a tile, and what all kernels are compiled for."""
    lanes = triton.next_power_of_2(channels)
    at_once = STEP // lanes  # pixels of a step
    steps = triton.cdiv(pixels, TILES * at_once)
    block = {"C": channels, "LANES": lanes, "PIXELS": at_once, "num_warps": WARPS}
    return triton.cdiv(pixels, steps * at_once), steps, block


@triton.jit
def _at(tile, step, steps, pixels, C: tl.constexpr, LANES: tl.constexpr, PIXELS: tl.constexpr):
    """Pixels of a step, (PIXELS, 1), channels, (1, LANES), and which of both there are."""
    p = ((tile * steps + step) * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = tl.arange(0, LANES)[None, :]
    return p, c, (p < pixels) & (c < C)


@triton.jit
def _frame(index, pixels, C: tl.constexpr):
    """Where a frame begins, beyond 2^31 in long chunks."""
    return index.to(tl.int64) * pixels * C


@triton.jit(do_not_specialize=["pixels", "steps"])
def _moments(x, bias, sums, pixels, steps, C: tl.constexpr, LANES: tl.constexpr, PIXELS: tl.constexpr):
    """Sums of x + bias and of its square over a tile, channel by channel: (frames, tiles, 2, C)."""
    tile, frame = tl.program_id(0), tl.program_id(1)
    x += _frame(frame, pixels, C)
    total = tl.zeros((PIXELS // 4, LANES), tl.float32)
    squares = tl.zeros((PIXELS // 4, LANES), tl.float32)
    for step in range(steps):
        p, c, inside = _at(tile, step, steps, pixels, C, LANES, PIXELS)
        v = tl.load(x + p * C + c, mask=inside, other=0.0).to(tl.float32)
        if bias is not None:
            v += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
            v = tl.where(inside, v, 0.0)
        # A thread's four loads are summed in its registers, which leaves enough of them for twice as many threads.
        v = tl.reshape(v, (4, PIXELS // 4, LANES))
        total += tl.sum(v, axis=0)
        squares += tl.sum(v * v, axis=0)
    c = tl.arange(0, LANES)
    sums += (frame * tl.num_programs(0) + tile) * 2 * C + c
    tl.store(sums, tl.sum(total, axis=0), mask=c < C)
    tl.store(sums + C, tl.sum(squares, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["tiles", "pixels", "eps"])
def _affine(
    sums,
    bias,
    scale,
    shift,
    affine,
    tiles,
    pixels,
    eps,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    TILES: tl.constexpr,
):
    """Make of a group's sums the factor and the summand, (frames, 2, C), that normalise its channels of x."""
    group, frame = tl.program_id(0), tl.program_id(1)
    t = tl.arange(0, TILES)[:, None]
    lane = tl.arange(0, LANES)
    c = group * GROUP + lane
    inside = (t < tiles) & (lane < GROUP)[None, :]
    sums += (frame * tiles + t) * 2 * C + c[None, :]
    count = pixels * GROUP
    mean = tl.sum(tl.load(sums, mask=inside, other=0.0)) / count
    square = tl.sum(tl.load(sums + C, mask=inside, other=0.0)) / count
    deviation = tl.sqrt(tl.maximum(square - mean * mean, 0.0) + eps)
    factor = tl.load(scale + c, mask=lane < GROUP, other=0.0).to(tl.float32) / deviation
    if bias is not None:
        mean -= tl.load(bias + c, mask=lane < GROUP, other=0.0).to(tl.float32)  # of x, not of x + bias
    summand = tl.load(shift + c, mask=lane < GROUP, other=0.0).to(tl.float32) - mean * factor
    affine += frame * 2 * C + c
    tl.store(affine, factor, mask=lane < GROUP)
    tl.store(affine + C, summand, mask=lane < GROUP)


@triton.jit(do_not_specialize=["pixels", "steps", "frames", "repeated", "behind"])
def _norm_silu(
    x,
    affine,
    out,
    pixels,
    steps,
    frames,
    repeated,
    behind,
    C: tl.constexpr,
    LANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Write silu(factor * x + summand) after `behind` frames of `out`, the first frame `repeated` more times."""
    tile, index = tl.program_id(0), tl.program_id(1)
    video, t = index // (repeated + frames), index % (repeated + frames)
    source = video * frames + tl.maximum(t - repeated, 0)
    x += _frame(source, pixels, C)
    out += _frame(video * (behind + repeated + frames) + behind + t, pixels, C)
    affine += source * 2 * C + tl.arange(0, LANES)[None, :]
    exists = tl.arange(0, LANES)[None, :] < C
    factor = tl.load(affine, mask=exists, other=0.0)
    summand = tl.load(affine + C, mask=exists, other=0.0)
    for step in range(steps):
        p, c, inside = _at(tile, step, steps, pixels, C, LANES, PIXELS)
        v = tl.load(x + p * C + c, mask=inside, other=0.0).to(tl.float32) * factor + summand
        tl.store(out + p * C + c, v * tl.sigmoid(v), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "pixels", "steps"])
def _resize(
    x,
    out,
    height,
    width,
    pixels,
    steps,
    FACTOR: tl.constexpr,
    MARGIN: tl.constexpr,
    C: tl.constexpr,
    LANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Write every pixel of `out` from the pixel of `x` that it shows, or zero in the margin."""
    tile, frame = tl.program_id(0), tl.program_id(1)
    x += _frame(frame, height * width, C)
    out += _frame(frame, pixels, C)
    columns = width * FACTOR + MARGIN
    for step in range(steps):
        p, c, inside = _at(tile, step, steps, pixels, C, LANES, PIXELS)
        row, column = p // columns // FACTOR, p % columns // FACTOR
        shown = inside & (row < height) & (column < width)
        v = tl.load(x + (row * width + column) * C + c, mask=shown, other=0.0)
        tl.store(out + p * C + c, v, mask=inside)


@triton.jit(do_not_specialize=["pixels", "steps", "repeats"])
def _add(
    y,
    bias,
    shortcut,
    out,
    pixels,
    steps,
    repeats,
    C: tl.constexpr,
    LANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Write y + bias + shortcut, every frame of it `repeats` times."""
    tile, frame = tl.program_id(0), tl.program_id(1)
    y += _frame(frame // repeats, pixels, C)
    out += _frame(frame, pixels, C)
    for step in range(steps):
        p, c, inside = _at(tile, step, steps, pixels, C, LANES, PIXELS)
        v = tl.load(y + p * C + c, mask=inside, other=0.0).to(tl.float32)
        if bias is not None:
            v += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
        if shortcut is not None:
            v += tl.load(shortcut + _frame(frame, pixels, C) + p * C + c, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + p * C + c, v, mask=inside)
