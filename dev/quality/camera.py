"""How the camera of a video moves, from its pixels: similarities fitted between frames a few apart.

Each fit is direct alignment: Gauss-Newton on the difference of brightness, from coarse to fine, with a gain and an
offset of the brightness fitted along and with weights that leave objects of their own motion out. It needs no features,
and what is known of its error is measured with every report, on clips whose motion is known.

Source: Lucas and Kanade 1981; Baker and Matthews, "Lucas-Kanade 20 Years On", IJCV 56(3), 2004; weights of Tukey.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from dev.train_demo.motion import TURN_PER_PIXEL, ZOOM_PER_PIXEL, Camera

UNIT_SIDE = 128
"""Pixels of a frame's short side in which motion is stated, whatever the video's size: those of training clips."""

HOP = 4
"""Frames between two that are aligned: far enough that noise is small against motion, near enough to look alike."""

_COARSEST = 16
"""Pixels of the short side where alignment starts; a hop of the fastest pan is 1.3 of them."""
_ITERATIONS = 8
_TUKEY = 4.685
_BLUR = 1.0
"""Standard deviation in pixels of what is taken from both pictures, so that noise is no gradient."""


def unit_scale(height: int, width: int) -> float:
    """Pixels of a video for each of the pixels in which motion is stated."""
    return min(height, width) / UNIT_SIDE


def vector(camera: Camera) -> tuple[float, float, float, float]:
    """A motion in pixels a frame: right, down, and what zooming and turning look like."""
    return (camera.right, camera.down, camera.grow / ZOOM_PER_PIXEL, camera.turn / TURN_PER_PIXEL)


def estimate(videos: Tensor, scene: Tensor | None = None) -> list[Camera]:
    """Measure mean camera motion over whole videos.

    Args:
        videos: (n, frames, 3, height, width) in [0, 1], of at least two frames.
        scene: What to look at, (n, frames, height, width) in [0, 1]: 0 where an object hides the scene. All by default.

    Returns:
        Of each video the constant motion that ends where its frames end; pixels are those of `UNIT_SIDE`.
    """
    count, frames, _, height, width = videos.shape
    grey = videos.float().mean(2)
    shown = torch.ones_like(grey) if scene is None else scene.float()
    scale = unit_scale(height, width)
    if scale > 1:
        size = (round(height / scale), round(width / scale))
        grey, shown = (F.interpolate(images, size=size, mode="area") for images in (grey, shown))
        scale = 1.0
    stops = sorted({*range(0, frames - 1, HOP), frames - 1})
    first, second = grey[:, stops[:-1]].flatten(0, 1), grey[:, stops[1:]].flatten(0, 1)
    shown = (shown[:, stops[:-1]] * shown[:, stops[1:]]).flatten(0, 1)
    hops = torch.tensor([b - a for a, b in pairwise(stops)], device=grey.device)
    found, likeness = align(first, second, shown)
    # A fit that went astray gets another chance from where the video's other hops lead.
    speed = (found.view(count, len(hops), 4) / hops.view(1, -1, 1)).median(dim=1, keepdim=True).values
    again, likeness_again = align(first, second, shown, (speed * hops.view(1, -1, 1)).flatten(0, 1))
    found = torch.where((likeness_again > likeness)[:, None], again, found)
    return [_camera(path, frames - 1, scale) for path in found.view(count, len(hops), 4).double().cpu()]


def _camera(hops: Tensor, frames: int, scale: float) -> Camera:
    """Chain similarities, (hops, 4), into one and divide it by its frames."""
    x = y = grow = turn = 0.0
    for right, down, more, by in hops.tolist():
        size = math.exp(more)
        x, y = (
            right + size * (math.cos(by) * x - math.sin(by) * y),
            down + size * (math.sin(by) * x + math.cos(by) * y),
        )
        grow, turn = grow + more, turn + by
    return Camera(x / frames / scale, y / frames / scale, grow / frames, turn / frames)


def align(first: Tensor, second: Tensor, shown: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit the similarity that takes points of one picture to where they are in another.

    Args:
        first: (n, height, width).
        second: Likewise.
        shown: Weights of the first one's pixels, (n, height, width).
        start: Where to begin, (n, 4); no motion by default.

    Returns:
        (n, 4): shift to the right and down in pixels, logarithm of the scale, radians clockwise, the last two about
        the middle; and (n,) the correlation of both pictures there, over what they share.
    """
    count, height, width = first.shape
    at = torch.zeros(count, 4, device=first.device) if start is None else start.float().clone()
    short = min(height, width)
    levels = [2**power for power in range(max(0, round(math.log2(short / _COARSEST))), -1, -1)]
    likeness = at.new_zeros(count)
    for level in levels:
        size = (max(1, round(height / level)), max(1, round(width / level)))
        a, b, weight = (F.interpolate(image[:, None], size=size, mode="area") for image in (first, second, shown))
        at, likeness = _refine(_blurred(a), _blurred(b), weight.flatten(1), at, height, width)
    return at, likeness


def _refine(a: Tensor, b: Tensor, shown: Tensor, at: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Gauss-Newton at one level; `a` and `b` are (n, 1, h, w), `at` and coordinates are of the full pictures."""
    x, y = positions(a.shape[-2], a.shape[-1], height, width, a.device)
    layers = torch.cat((b, *_gradients(b, height, width)), dim=1)
    a = a.flatten(1)
    radius = min(height, width) / 2
    likeness = at.new_zeros(len(at))
    for iteration in range(_ITERATIONS + 1):
        right, down, grow, turn = (value[:, None] for value in at.unbind(1))
        scale, cosine, sine = grow.exp(), turn.cos(), turn.sin()
        u, v = scale * (cosine * x - sine * y), scale * (sine * x + cosine * y)
        px, py = u + right, v + down
        seen = ((px.abs() < width / 2) & (py.abs() < height / 2)) * shown
        grid = torch.stack((px * (2 / width), py * (2 / height)), dim=-1).view(len(at), *b.shape[-2:], 2)
        values, gx, gy = F.grid_sample(layers, grid, align_corners=False, padding_mode="border").flatten(2).unbind(1)
        likeness = _correlation(a, values, seen)
        if iteration == _ITERATIONS:
            break
        # Columns: what the warped picture changes by with each parameter, and what gain and offset of `a` add.
        columns = torch.stack((gx, gy, (gx * u + gy * v) / radius, (gy * u - gx * v) / radius, -a, -torch.ones_like(a)))
        weight = _weights(a, values, seen)
        weighted = columns * weight
        normal = torch.einsum("inp,jnp->nij", weighted, columns)
        # The gain is about 1 and the offset about 0: what is left to explain beside them.
        pulled = torch.einsum("inp,np->ni", weighted, values - a)
        damping = torch.diagonal(normal, dim1=1, dim2=2).clamp(min=1e-6) * 1e-3
        step = torch.linalg.solve(normal + torch.diag_embed(damping), pulled[..., None])[..., 0][:, :4]
        step = step / step.new_tensor((1, 1, radius, radius))
        limit = step.new_tensor((radius / 4, radius / 4, 0.2, 0.2))
        at = at - step.clamp(-limit, limit)
        at = at.clamp(-at.new_tensor((width, height, 1.0, 1.0)), at.new_tensor((width, height, 1.0, 1.0)))
    return at, likeness


def positions(rows: int, columns: int, height: float, width: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the pixels of a picture of `rows` x `columns` are in one of height x width, about its middle, flattened."""
    x = (torch.arange(columns, device=device) + 0.5) * (width / columns) - width / 2
    y = (torch.arange(rows, device=device) + 0.5) * (height / rows) - height / 2
    return x.repeat(rows), y.repeat_interleave(columns)


def _gradients(b: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Change a pixel of the full picture, to the right and down."""
    padded = F.pad(b, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (b.shape[-1] / width / 2)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (b.shape[-2] / height / 2)
    return across, down


def _weights(a: Tensor, b: Tensor, seen: Tensor) -> Tensor:
    """Tukey's, from residuals in units of their mean size, once brightness is made equal."""
    count = seen.sum(1, keepdim=True).clamp(min=1)
    ma, mb = (a * seen).sum(1, keepdim=True) / count, (b * seen).sum(1, keepdim=True) / count
    away = b - mb - (a - ma)
    spread = 1.25 * (away.abs() * seen).sum(1, keepdim=True) / count + 1e-4
    return (1 - (away / (_TUKEY * spread)).square()).clamp(min=0).square() * seen


def _correlation(a: Tensor, b: Tensor, seen: Tensor) -> Tensor:
    """Of brightness over what both show, less where they share little."""
    count = seen.sum(1, keepdim=True).clamp(min=1)
    da = (a - (a * seen).sum(1, keepdim=True) / count) * seen
    db = (b - (b * seen).sum(1, keepdim=True) / count) * seen
    shared = (count[:, 0] / a.shape[1]).clamp(max=0.25) * 4
    return (da * db).sum(1) / (da.square().sum(1) * db.square().sum(1)).sqrt().clamp(min=1e-6) * shared


def _blurred(image: Tensor) -> Tensor:
    """A Gaussian blur of (n, 1, h, w)."""
    return smoothed(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, _BLUR)


def smoothed(image: Tensor, size: int, deviation: float) -> Tensor:
    """Gaussian means over squares of `size` pixels that are wholly inside, of (..., h, w).

    Sums of shifted pictures and no convolution, which on a GPU would round float32 to 10 bits.
    """
    reach = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-reach.square() / (2 * deviation**2))
    weights: list[float] = (line / line.sum()).tolist()
    for axis in (-1, -2):
        length = image.shape[axis] - size + 1
        image = sum(  # type: ignore[assignment]
            weight * image.narrow(axis, start, length) for start, weight in enumerate(weights)
        )
    return image
