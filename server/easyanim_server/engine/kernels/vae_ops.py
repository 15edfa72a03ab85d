"""What lies between the VAE's convolutions: norm and activation, changes of size, sums.

Three ways to the same results: PyTorch's own operators, the same compiled by Inductor, and kernels in Triton. Videos
are (batch, channels, frames, height, width) everywhere; on a GPU they lie in memory as (batch, frames, height, width,
channels), which its convolutions work in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Way = Literal["eager", "compiled", "triton"]


@dataclass(frozen=True)
class Pointwise:
    """The functions below in one way; call them with positional arguments."""

    norm_silu: Callable[..., Tensor]
    resize: Callable[..., Tensor]
    add: Callable[..., Tensor]
    adds_bias: bool
    """Whether a convolution should leave its bias to `norm_silu` and `add`, where it costs no pass over memory."""


def best_way(device: torch.device) -> Way:
    """The fastest way that works on `device`."""
    return "triton" if device.type == "cuda" and find_spec("triton") else "eager"


def pointwise(way: Way) -> Pointwise:
    """Choose a way.

    Args:
        way: ``eager`` computes on any device; ``compiled`` compiles every shape when it is seen first, seconds each;
            ``triton`` needs Triton and CUDA, and compiles once for every number of channels.
    """
    if way == "triton":
        from easyanim_server.engine.kernels import vae_ops_triton as kernels  # Triton is not everywhere

        return Pointwise(kernels.norm_silu, kernels.resize, kernels.add, adds_bias=True)
    if way == "compiled":
        # A network of one size needs some fifty shapes, for each of which Dynamo compiles anew.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
        norm, size, total = (torch.compile(f, fullgraph=True, dynamic=False) for f in (norm_silu, resize, add))
        return Pointwise(norm, size, total, adds_bias=True)
    return Pointwise(norm_silu, resize, add, adds_bias=False)


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
    """Normalise every frame, apply SiLU, and put the frames behind those before them.

    Args:
        x: (batch, channels, frames, h, w).
        bias: (channels,), added to `x` first.
        past: What the previous call returned last, (batch, channels, lead, h, w); without it, the first frame repeats.
        lead: Frames to put in front.
        scale: (channels,), the norm's weight.
        shift: (channels,), the norm's bias.
        groups: Groups of channels that share mean and variance.
        eps: Added to the variance.

    Returns:
        (batch, channels, lead + frames, h, w).
    """
    if bias is not None:
        x = x + _per_channel(bias)
    frames = x.transpose(1, 2).flatten(0, 1)  # (batch * frames, channels, h, w)
    y = F.silu(F.group_norm(centred(frames, groups), groups, scale, shift, eps))
    y = y.view(x.shape[0], -1, *y.shape[1:]).transpose(1, 2)  # (batch, channels, frames, h, w)
    return _ordered(follow(y, past, lead), x)


def resize(x: Tensor, factor: int, margin: int) -> Tensor:
    """Repeat every pixel `factor` times in both directions, and add `margin` zeros at the right and the bottom.

    Args:
        x: (batch, channels, frames, h, w).
        factor: At least 1.
        margin: At least 0.

    Returns:
        (batch, channels, frames, factor * h + margin, factor * w + margin).
    """
    if factor > 1:
        x = _ordered(F.interpolate(x, scale_factor=(1, factor, factor), mode="nearest"), x)
    return F.pad(x, (0, margin, 0, margin)) if margin else x


def add(y: Tensor, bias: Tensor | None, shortcut: Tensor | None, repeats: int) -> Tensor:
    """Sum what is given, and repeat every frame.

    Args:
        y: (batch, channels, frames, h, w); may be overwritten.
        bias: (channels,).
        shortcut: Of the shape of `y`.
        repeats: At least 1.

    Returns:
        (batch, channels, repeats * frames, h, w).
    """
    if bias is not None:
        y = y + _per_channel(bias)
    if shortcut is not None:
        y = y + shortcut
    return _ordered(y.repeat_interleave(repeats, dim=2), y) if repeats > 1 else y


def follow(x: Tensor, past: Tensor | None, lead: int) -> Tensor:
    """Put `past`, or else `lead` times the first frame, in front of `x`; all (batch, channels, frames, h, w)."""
    before = (x[:, :, :1],) * lead if past is None else (past,)
    return torch.cat((*before, x), dim=2)


def centred(frames: Tensor, groups: int) -> Tensor:
    """Take each group's mean out of (frames, channels, h, w), where torch's norm would lose digits to it.

    Its kernel for channels last on a CPU takes the mean of squares less the squared mean for the variance. In frames
    that are nearly even, as the black ones behind a given picture are, hardly anything is left of the difference.
    """
    last = frames.is_contiguous(memory_format=torch.channels_last) and not frames.is_contiguous()
    if frames.device.type != "cpu" or frames.dtype is not torch.float32 or not last:
        return frames
    means = frames.mean((2, 3)).view(len(frames), groups, -1).mean(2)
    centred: Tensor = frames - means.repeat_interleave(frames.shape[1] // groups, dim=1)[:, :, None, None]
    return centred


def _ordered(y: Tensor, x: Tensor) -> Tensor:
    """Put `y` in the order in memory that `x` has."""
    last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return y.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def _per_channel(vector: Tensor) -> Tensor:
    return vector.view(-1, 1, 1, 1)  # against (batch, channels, frames, h, w)
