"""How far the judge of motion can be trusted: what it says of clips whose motion is known, blurred and with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dev.quality.agreement import Motion, judge_all
from dev.quality.camera import smoothed
from dev.quality.cases import Case, Frames, Photographs

BLUR = 1.3
"""Standard deviation in pixels."""
NOISE = 6.0
"""Standard deviation of each frame's own noise, of 255."""


@dataclass(frozen=True)
class Trust:
    """What the judge found."""

    cases: list[Case]
    motions: list[Motion]

    @property
    def agreement(self) -> float:
        """Share of clips that it found in agreement; all of them are."""
        return sum(motion.agrees for motion in self.motions) / len(self.motions)


def worsened(frames: Frames, seed: int, blur: float = BLUR, noise: float = NOISE) -> Frames:
    """Blur a video and put noise on it."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    video = smoothed(F.pad(video, (4, 4, 4, 4), mode="reflect"), 9, blur)
    drawn = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed))
    made = (video + noise * drawn).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy())


def check(cases: Sequence[Case], photographs: Photographs, device: torch.device | None = None) -> Trust:
    """Judge the true clips of cases, worsened."""
    motions: dict[int, Motion] = {}
    for bucket in dict.fromkeys(case.bucket for case in cases):
        some = [case for case in cases if case.bucket == bucket]
        for start in range(0, len(some), 16):
            part = some[start : start + 16]
            clips = [worsened(photographs.truth(case), seed=case.index) for case in part]
            motions |= {case.index: found for case, found in zip(part, judge_all(part, clips, device), strict=True)}
    return Trust(list(cases), [motions[case.index] for case in cases])
