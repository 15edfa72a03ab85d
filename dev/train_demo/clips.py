"""Draws clips of scenes: a picture seen by a moving camera, an object before it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dev.train_demo.motion import COLOURS, SHAPES, Scene
from dev.train_demo.pictures import SIDE


@torch.no_grad()
def draw(
    pictures: Tensor,
    scenes: Sequence[Scene],
    frames: int,
    height: int,
    width: int,
    rng: random.Random,
    scale: float = 1.0,
) -> Tensor:
    """Draw one clip per scene.

    Args:
        pictures: A bank, (n, 3, SIDE, SIDE) uint8; each clip takes one, and a second for a textured object. Where clips
            are enlarged it may be larger by as much, and shows as much.
        scenes: What moves.
        frames: Of every clip.
        height: Of every frame, in pixels.
        width: Likewise; both are at most SIDE times `scale`.
        rng: Chooses pictures, and where in them the first frame is.
        scale: How much larger than the pixels of `scenes` those of the clips are in number.

    Returns:
        (clips, 3, frames, height, width) float32 in [-1, 1], in channels_last_3d order.
    """
    device, clips = pictures.device, len(scenes)
    index = torch.tensor([rng.randrange(len(pictures)) for _ in scenes], device=device)
    room_x, room_y = int(SIDE - width / scale) // 3, int(SIDE - height / scale) // 3
    offsets = [(rng.randint(-room_x, room_x), rng.randint(-room_y, room_y)) for _ in scenes]
    x, y = (axis / scale for axis in _pixels(height, width, device))
    cameras = torch.tensor(
        [
            (s.camera.right, s.camera.down, s.camera.grow, s.camera.turn, *offset)
            for s, offset in zip(scenes, offsets, strict=True)
        ],
        dtype=torch.float32,
        device=device,
    )
    right, down, grow, turn, left, top = cameras.view(clips, 6, 1, 1, 1).unbind(1)
    t = torch.arange(frames, dtype=torch.float32, device=device).view(1, -1, 1, 1)
    # Where in the first frame is what is now here: undo the shift, then the turn and the growth.
    u, v = x - right * t, y - down * t
    growth, cosine, sine = torch.exp(-grow * t), torch.cos(turn * t), torch.sin(turn * t)
    source = torch.stack((growth * (cosine * u + sine * v) + left, growth * (cosine * v - sine * u) + top), dim=-1)
    video = _sample(pictures[index].float() / 255, source)
    with_things = [number for number, scene in enumerate(scenes) if scene.thing is not None]
    if with_things:
        which = torch.tensor(with_things, device=device)
        video[which] = _with_things(video[which], [scenes[n] for n in with_things], pictures, x, y, rng)
    return (video.clamp(0, 1) * 2 - 1).contiguous(memory_format=torch.channels_last_3d)


def _pixels(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates of pixels' middles about the frame's middle: (1, 1, 1, width) and (1, 1, height, 1)."""
    x = torch.arange(width, dtype=torch.float32, device=device) + 0.5 - width / 2
    y = torch.arange(height, dtype=torch.float32, device=device) + 0.5 - height / 2
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _sample(pictures: Tensor, where: Tensor) -> Tensor:
    """Look up pixels at (clips, frames, height, width, 2), in pixels about the pictures' middles."""
    clips, frames, height, width, _ = where.shape
    grid = where.flatten(1, 2) * (2 / SIDE)
    pixels = F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return pixels.view(clips, 3, frames, height, width)


def _with_things(
    video: Tensor, scenes: Sequence[Scene], pictures: Tensor, x: Tensor, y: Tensor, rng: random.Random
) -> Tensor:
    """Draw every scene's object over its clip, (clips, 3, frames, height, width)."""
    device, clips, frames = video.device, len(scenes), video.shape[2]
    things = [scene.thing for scene in scenes]
    paths = torch.tensor([thing.path for thing in things if thing], dtype=torch.float32, device=device)
    numbers = [(thing.radius, SHAPES.index(thing.shape), thing.colour is None) for thing in things if thing]
    radius, shape, textured = (
        torch.tensor(numbers, dtype=torch.float32, device=device).view(clips, 3, 1, 1, 1).unbind(1)
    )
    u = (x - paths[:, :frames, 0].view(clips, frames, 1, 1)) / radius
    v = (y - paths[:, :frames, 1].view(clips, frames, 1, 1)) / radius
    alpha = _covered(u, v, shape, radius)[:, None]
    tint = [[c + rng.uniform(-0.06, 0.06) for c in COLOURS[t.colour or rng.choice([*COLOURS])]] for t in things if t]
    colour = torch.tensor(tint, device=device).view(clips, 3, 1, 1, 1)
    light = (1.0 - 0.35 * (u * 0.5 + v * 0.8)).clamp(0.45, 1.35)[:, None]
    index = torch.tensor([rng.randrange(len(pictures)) for _ in things], device=device)
    texture = _sample(
        pictures[index].float() / 255, torch.stack(torch.broadcast_tensors(u * radius, v * radius), dim=-1)
    )
    fill = torch.where(textured[:, None] > 0, texture, colour * light)
    return video * (1 - alpha) + fill * alpha


def inside(shape: str, u: Tensor, v: Tensor, radius: float) -> Tensor:
    """How much of pixels an object covers, in [0, 1].

    Args:
        shape: One of `SHAPES`.
        u: Their places right of its middle, in radii.
        v: Likewise below its middle.
        radius: In pixels.
    """
    u, v = torch.broadcast_tensors(u, v)
    return _covered(u, v, torch.full_like(u, SHAPES.index(shape)), torch.full_like(u, radius))


def _covered(u: Tensor, v: Tensor, shape: Tensor, radius: Tensor) -> Tensor:
    return (_edge(u, v, shape) * radius + 0.5).clamp(0, 1)  # one pixel of soft edge


def _edge(u: Tensor, v: Tensor, shape: Tensor) -> Tensor:
    """How far inside the outline of its shape a point is, in radii; negative outside."""
    length = (u * u + v * v).sqrt()
    angle = torch.atan2(u, -v)
    box = 0.85 - torch.maximum(u.abs(), v.abs())
    triangle = torch.minimum(0.6 - v, (v + 1.0) * 0.45 - u.abs() * 0.9)
    star = 0.72 + 0.28 * torch.cos(5 * angle) - length
    ring = 0.3 - (length - 0.7).abs()
    edges = (1.0 - length, box, triangle, star * 0.8, ring)  # in the order of SHAPES
    chosen = edges[0]
    for number, edge in enumerate(edges[1:], start=1):
        chosen = torch.where(shape == number, edge, chosen)
    return chosen
