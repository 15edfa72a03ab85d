"""How a video looks beside the true clip, whichever way it moves: what a smear or confetti would lose.

Agreement asks where a video moves, and a smear that moves as asked for agrees. So each video is also held against the
true clip by two measures, and so are the clip itself and what was made of it on purpose: a smear, a blur and a still.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dev.quality import camera
from dev.quality.cases import Frames

SMEARED = 9
"""Frames that a smear is the mean of: of the middle speed, 1.2 pixels a frame, it draws each point into 10 pixels."""
BLUR = 2.0
"""Standard deviation of the blur, in pixels of a short side of 128."""
KINDS = ("truth", "smear", "blur", "still")
"""What the measures are shown on beside the model's videos."""

_LUMA = (0.299, 0.587, 0.114)
_T = 170.0
"""Keeps the similarity of gradients stable where there are none, for brightness up to 255; the paper's own."""


@dataclass(frozen=True)
class Looks:
    """Two measures of a video beside the true clip."""

    gmsd: float
    """Deviation of the similarity of gradients, mean over frames: 0 for equal ones; less is better.

    Source: Xue et al., "Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual Image Quality Index",
    IEEE TIP 23(2), 2014.
    """
    sharpness: float
    """Energy of the Laplacian, which is that of fine detail, as a share of the true clip's: 1 is as sharp, a smear has
    less, confetti more.

    Source: the focus measure of Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy", ICPR 2000.
    """

    def columns(self, name: str = "looks") -> dict[str, float]:
        """As columns of a row, which begin with `name`."""
        return {f"{name}_{key}": value for key, value in asdict(self).items()}


def compare(made: Frames, truth: Frames, device: torch.device | None = None) -> Looks:
    """Hold a video against the true clip, frame by frame, but for the first, which both are given."""
    grey = [_brightness(frames[1:], device) for frames in (made, truth)]
    a, b = (_gradients(F.avg_pool2d(image, 2)) for image in grey)  # the paper halves pictures first
    similar = (2 * a * b + _T) / (a * a + b * b + _T)
    deviation = similar.flatten(1).std(dim=1, unbiased=False)
    made_detail, true_detail = map(_detail, grey)
    return Looks(float(deviation.mean()), made_detail / max(true_detail, 1e-6))


def worsened(truth: Frames, kind: str) -> Frames:
    """Make of a true clip what `KINDS` names; its first frame stays as it is."""
    if kind == "truth":
        return truth
    if kind == "still":
        return np.repeat(truth[:1], len(truth), axis=0)
    video = torch.from_numpy(truth).permute(0, 3, 1, 2).float()
    if kind == "smear":
        reach = SMEARED // 2
        padded = torch.cat((video[:1].repeat(reach, 1, 1, 1), video, video[-1:].repeat(reach, 1, 1, 1)))
        video = padded.unfold(0, SMEARED, 1).mean(-1)
    else:
        deviation = BLUR * camera.unit_scale(*truth.shape[1:3])
        reach = round(3 * deviation)
        video = camera.smoothed(F.pad(video, (reach, reach, reach, reach), mode="reflect"), 2 * reach + 1, deviation)
    made = video.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(np.concatenate((truth[:1], made[1:])))


def of_kinds(truth: Frames, device: torch.device | None = None) -> dict[str, float]:
    """The measures of everything in `KINDS`, as columns of a case's row."""
    columns: dict[str, float] = {}
    for kind in KINDS:
        columns |= compare(worsened(truth, kind), truth, device).columns(kind)
    return columns


def _brightness(frames: Frames, device: torch.device | None) -> Tensor:
    """(n, 1, height, width) float32 in [0, 255]."""
    pixels = torch.from_numpy(frames).to(device or "cpu").float()
    return (pixels * pixels.new_tensor(_LUMA)).sum(-1)[:, None]


def _detail(grey: Tensor) -> float:
    """Variance of the Laplacian."""
    across, down = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:], grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1]
    return float((across + down - 4 * grey[..., 1:-1, 1:-1]).var())


def _gradients(grey: Tensor) -> Tensor:
    """Size of the gradient at each pixel, by Prewitt's filters."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    x = (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]) / 3
    y = (down[..., :-2] + down[..., 1:-1] + down[..., 2:]) / 3
    return (x.square() + y.square()).sqrt()
