"""Frames of a moving pattern, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from easyanim_server.domain.job import OutputFormat
from easyanim_server.media.encoder import VideoEncoder

WIDTH, HEIGHT, FRAMES, FPS = 160, 96, 49, 8

GROUPS = [slice(0, 1), *(slice(start, start + 4) for start in range(1, FRAMES, 4))]

Frames = npt.NDArray[np.uint8]


def moving_pattern(frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Frames:
    """A disc that travels over colour gradients with some grain: (frames, height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 2, (height, width, 1))
    pictures = []
    for number in range(frames):
        travel = number / max(frames - 1, 1)
        red = 255 * x / width
        green = 255 * y / height
        blue = 127 + 100 * np.sin(x / 20 + 4 * travel)
        distance = np.hypot(x - width * (0.2 + 0.6 * travel), y - height / 2)
        inside = ((height / 4 - distance) / 8).clip(0, 1)[..., None]  # a soft edge, as a lens makes it
        background = np.stack([red, green, blue], axis=-1)
        pictures.append(background * (1 - inside) + inside * (250, 220, 40) + grain)
    return np.stack(pictures).clip(0, 255).astype(np.uint8)


def parts(
    output: OutputFormat,
    frames: Frames,
    *,
    fps: int = FPS,
    groups: Sequence[slice] | None = None,
    promise: bool = True,
    comment: str = "",
) -> list[bytes]:
    """The bytes that each group's `write` gave, then those of `close`."""
    count, height, width, _ = frames.shape
    promised = count if promise else None
    with VideoEncoder(output, width=width, height=height, fps=fps, frames=promised, comment=comment) as encoder:
        return [encoder.write(frames[group]) for group in groups or GROUPS] + [encoder.close()]


def encode(output: OutputFormat, frames: Frames, **options: Any) -> bytes:
    return b"".join(parts(output, frames, **options))
