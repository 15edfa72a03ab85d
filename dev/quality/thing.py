"""Where an object is in every frame of a video, found again by its look in the first one, whose place is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dev.quality.camera import unit_scale
from dev.train_demo.clips import inside
from dev.train_demo.motion import Camera, Thing

Path = tuple[tuple[float, float], ...]
"""Pixels right of and below the middle of the picture, frame by frame."""

_REACH = 10.0
"""Pixels around where the object should be next, in which it is looked for; free fall adds 0.3 a frame."""
_LEAST_SEEN = 0.5
"""Share of the object that must be inside the picture to be compared."""


def track(video: Tensor, thing: Thing) -> Path:
    """Follow an object.

    Args:
        video: (frames, 3, height, width) in [0, 1].
        thing: Its shape, radius, and place in the first frame, in pixels of `camera.UNIT_SIDE`.

    Returns:
        Its middle in every frame, in the same pixels.
    """
    _, _, height, width = video.shape
    scale = unit_scale(height, width)
    if scale > 1:
        height, width = round(height / scale), round(width / scale)
        video = F.interpolate(video.float(), size=(height, width), mode="area")
        scale = 1.0
    radius = thing.radius * scale
    costs = _costs(video, thing, (thing.path[0][0] * scale, thing.path[0][1] * scale), radius)
    rows = torch.arange(height) + 0.5 - height / 2
    columns = torch.arange(width) + 0.5 - width / 2
    x, y = thing.path[0][0] * scale, thing.path[0][1] * scale
    dx = dy = 0.0
    path = [(x, y)]
    for cost in costs[1:].cpu():
        far = torch.hypot(columns[None] - (x + dx), rows[:, None] - (y + dy))
        near = cost + torch.where(far > _REACH * max(scale, 0.5), math.inf, 1e-5 * far)
        if not torch.isfinite(near).any():  # it has left the picture
            path.append((x, y))
            continue
        row, column = divmod(int(near.argmin()), width)
        was = (x, y)
        x = float(columns[column]) + _vertex(cost[row], column)
        y = float(rows[row]) + _vertex(cost[:, column], row)
        dx, dy = x - was[0], y - was[1]
        path.append((x, y))
    return tuple((x / scale, y / scale) for x, y in path)


def scene_behind(video: Tensor, thing: Thing, path: Path) -> Tensor:
    """Where an object hides nothing: (frames, height, width), 1 there and 0 on it and right beside it."""
    height, width = video.shape[-2:]
    scale = unit_scale(height, width)
    middles = torch.tensor(path, device=video.device)[:, :, None, None] * scale
    x = torch.arange(width, device=video.device) + 0.5 - width / 2
    y = torch.arange(height, device=video.device) + 0.5 - height / 2
    far = torch.hypot(x[None, None] - middles[:, 0], y[None, :, None] - middles[:, 1])
    return (far > (1.2 * thing.radius + 2) * scale).float()


def carried(point: tuple[float, float], camera: Camera, frames: float) -> tuple[float, float]:
    """Where a point of the scene is after some frames of a camera's motion."""
    size, turn = math.exp(camera.grow * frames), camera.turn * frames
    x, y = point
    return (
        size * (math.cos(turn) * x - math.sin(turn) * y) + camera.right * frames,
        size * (math.sin(turn) * x + math.cos(turn) * y) + camera.down * frames,
    )


def offsets(path: Path, camera: Camera) -> Sequence[tuple[float, float]]:
    """How far an object has moved from its start over the scene behind it, frame by frame."""
    away = []
    for frame, (x, y) in enumerate(path):
        still = carried(path[0], camera, frame)
        away.append((x - still[0], y - still[1]))
    return away


def _costs(video: Tensor, thing: Thing, start: tuple[float, float], radius: float) -> Tensor:
    """Mean squared difference from the object's look in the first frame, were its middle at a pixel's middle.

    Returns:
        (frames, height, width); infinite where too little of the object would be inside.
    """
    # A GPU's convolutions round float32 to 10 bits, and what is looked for is a small difference of large sums.
    video = video.double() if video.is_cuda else video.float()
    height, width = video.shape[-2:]
    reach = math.ceil(radius) + 1
    line = torch.arange(-reach, reach + 1, device=video.device, dtype=video.dtype)
    cover = inside(thing.shape, line[None] / radius, line[:, None] / radius, radius)
    # Its look, sampled about its middle, which is between pixels.
    x, y = (start[0] + line) * (2 / width), (start[1] + line) * (2 / height)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    look = F.grid_sample(video[:1], grid, align_corners=False, padding_mode="border")[0]
    there = ((x.abs() < 1)[None] & (y.abs() < 1)[:, None]).to(video.dtype)
    cover = cover * there
    ones = torch.ones_like(video[:1, :1])
    squares = F.conv2d(video.square().sum(1, keepdim=True), cover[None, None], padding=reach)
    products = F.conv2d(video, (cover * look)[None], padding=reach)
    own = F.conv2d(ones, (cover * look.square().sum(0))[None, None], padding=reach)
    seen = F.conv2d(ones, cover[None, None], padding=reach)
    cost = (squares - 2 * products + own) / seen.clamp(min=1e-3)
    return torch.where(seen < _LEAST_SEEN * cover.sum(), math.inf, cost)[:, 0]


def _vertex(line: Tensor, at: int) -> float:
    """How far beside the least of three neighbours the least of a parabola through them is."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    if not math.isfinite(bend) or bend <= 0:
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (before - after) / bend))
