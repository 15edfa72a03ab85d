"""A simulated model for the quality harness: it answers with the true clip, made worse in ways that are known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dev.quality.cases import Case, Frames, Photographs
from dev.quality.render import Rendered
from dev.quality.settings import Setting
from dev.quality.trust import worsened
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import Solver


@dataclass
class SimulatedModel:
    """Implements `dev.quality.render.Renderer` without any network.

    Every video is the true one, blurred as by a VAE. Settings add an error of their own, the same for one setting and
    case, that falls with steps and with the solver's order and rises with what accelerators leave out.
    """

    photographs: Photographs
    wrong: set[int] = field(default_factory=set)
    """Cases whose video stands still whatever was asked for."""
    rendered: list[tuple[str, int]] = field(default_factory=list)
    """Setting and case of each video that was made."""
    answer: str = "simulated"

    def facts(self) -> dict[str, Any]:
        return {
            "model": "simulated:ground-truth", "parameters": 0, "answer": self.answer, "device": "none",
            "dtype": "none", "backend": "simulated", "precision": "none", "torch": "none",
        }  # fmt: skip

    def prepare(self, buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
        return []

    def render(self, case: Case, setting: Setting, guidance: float, start: Frames) -> Rendered:
        self.rendered.append((setting.name, case.index))
        clip = self.photographs.truth(case)
        if case.index in self.wrong:
            clip = np.repeat(clip[:1], len(clip), axis=0)
        video = worsened(clip, seed=case.index, blur=0.9, noise=1.0).astype(np.float32)
        used = setting.acceleration
        order = 1.0 if used.solver is Solver.EULER else 1.5
        size = 12.0 * (8 / setting.steps) ** order + 30 * used.cache_threshold + 6 * (1 - used.guidance_end)
        seed = int(hashlib.sha256(f"{setting.name} {case.index}".encode()).hexdigest()[:8], 16)
        video = video + size * np.random.default_rng(seed).standard_normal(video.shape, dtype=np.float32)
        reused = round(setting.steps * min(0.6, 3 * used.cache_threshold))
        predictions = round(setting.predictions(guidance) * (1 - reused / setting.steps))
        frames = video.round().clip(0, 255).astype(np.uint8)
        return Rendered(frames, predictions, reused, 0.01 * predictions + 0.1, 0.01 * predictions)

    def round_trip(self, frames: Frames) -> Frames:
        return worsened(frames, seed=0, blur=0.9, noise=1.0)
