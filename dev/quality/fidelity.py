"""Distances between pictures: PSNR, SSIM and, where its package is installed, LPIPS; and how smoothly a video moves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dev.quality import camera
from dev.quality.cases import Frames
from dev.train_demo.motion import TURN_PER_PIXEL, ZOOM_PER_PIXEL, Camera

MOST_DB = 99.0
"""What equal pictures get, whose ratio is infinite."""

_LUMA = (0.299, 0.587, 0.114)


def psnr(made: Frames, wanted: Frames) -> float:
    """Peak signal-to-noise ratio in dB over all pixels of all frames, of a peak of 255; at most `MOST_DB`."""
    error = float(np.mean(np.square(made.astype(np.float32) - wanted.astype(np.float32))))
    return min(MOST_DB, 10 * math.log10(255**2 / error)) if error else MOST_DB


def ssim(made: Frames, wanted: Frames, device: torch.device | None = None) -> float:
    """Structural similarity of brightness, the mean over all frames; 1 for equal ones.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 13(4),
    2004: a Gaussian window of 11 pixels and standard deviation 1.5, only where it is wholly inside.
    """
    a, b = (_luma(frames, device) for frames in (made, wanted))
    ma, mb, aa, bb, ab = (camera.smoothed(image, 11, 1.5) for image in (a, b, a * a, b * b, a * b))
    va, vb, both = aa - ma * ma, bb - mb * mb, ab - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * ma * mb + c1) * (2 * both + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return float(similar.mean())


def smoothness(frames: Frames, moves: tuple[float, float, float, float], device: torch.device | None = None) -> float:
    """How well each frame is told by its two neighbours, moved as the camera moves: PSNR in dB.

    Flicker, jumps and motion that comes in fits lower it, and so does all detail that a shift by parts of a pixel
    loses: numbers are to be compared with those of the true clip.

    Args:
        frames: At least three.
        moves: The camera's motion; see `camera.vector`.
        device: Where to compute.
    """
    video = _luma(frames, device)
    height, width = video.shape[-2:]
    scale = camera.unit_scale(height, width)
    right, down, grow, turn = moves
    motion = Camera(right * scale, down * scale, grow * ZOOM_PER_PIXEL, turn * TURN_PER_PIXEL)
    middle = range(1, len(video) - 1)
    before, seen_before = _moved(video[:-2], motion, [(t - 1, t) for t in middle])
    after, seen_after = _moved(video[2:], motion, [(t + 1, t) for t in middle])
    seen = seen_before * seen_after
    error = ((before + after) / 2 - video[1:-1]).square() * seen
    mean = float(error.sum() / seen.sum().clamp(min=1))
    return min(MOST_DB, 10 * math.log10(255**2 / mean)) if mean else MOST_DB


def _moved(video: Tensor, motion: Camera, times: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Frames of one time each as they should look at another, and where they show that; (n, 1, h, w) both."""
    height, width = video.shape[-2:]
    x, y = camera.positions(height, width, height, width, video.device)
    grids = []
    for shown, wanted in times:
        # A point here was there: back to the first frame, and on to the time that is shown.
        size, turn = math.exp(motion.grow * (shown - wanted)), motion.turn * (shown - wanted)
        u, v = x - motion.right * wanted, y - motion.down * wanted
        px = size * (math.cos(turn) * u - math.sin(turn) * v) + motion.right * shown
        py = size * (math.sin(turn) * u + math.cos(turn) * v) + motion.down * shown
        grids.append(torch.stack((px * (2 / width), py * (2 / height)), dim=-1).view(height, width, 2))
    grid = torch.stack(grids)
    seen = (grid.abs().amax(-1) < 1)[:, None].float()
    return F.grid_sample(video, grid, mode="bicubic", align_corners=False, padding_mode="border"), seen


def _luma(frames: Frames, device: torch.device | None) -> Tensor:
    """(n, 1, height, width) float32 in [0, 255]."""
    pixels = torch.from_numpy(frames).to(device or "cpu").float()
    return (pixels * pixels.new_tensor(_LUMA)).sum(-1)[:, None]


@cache
def lpips() -> Callable[[Frames, Frames], float] | None:
    """The learned distance, where package and weights are there: the mean over frames; 0 for equal ones.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
    """
    if find_spec("lpips") is None:
        return None
    package = import_module("lpips")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = package.LPIPS(net="alex", verbose=False).to(device).eval()
    except Exception:  # its backbone is downloaded by torchvision, which raises what its transport raises
        return None

    @torch.no_grad()
    def distance(made: Frames, wanted: Frames) -> float:
        a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2).to(device) / 127.5 - 1 for frames in (made, wanted))
        return float(
            torch.cat(
                [network(x, y).flatten() for x, y in zip(torch.split(a, 16), torch.split(b, 16), strict=True)]
            ).mean()
        )

    return distance
