"""Makes videos with the product's engine, in this process, and times them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from dev.quality.cases import Case, Frames, picture_of
from dev.quality.settings import Setting
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.config.settings import Settings
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.engine.devices import resolve_device
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.prompts.negative import recommended_negative


@dataclass(frozen=True)
class Rendered:
    """A video and what it took."""

    frames: Frames
    predictions: int
    """Passes through the transformer."""
    reused: int
    """Steps that reused one."""
    seconds: float
    """From the prompt to the last frame on the host."""
    denoise_seconds: float


class Renderer(Protocol):
    """Something that makes videos."""

    def facts(self) -> dict[str, Any]:
        """What results depend on; they are kept for as long as all of it stays the same."""

    def prepare(self, buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
        """Make buckets ready; returns how each is served."""

    def render(self, case: Case, setting: Setting, guidance: float, start: Frames) -> Rendered:
        """Make one video from the first of the frames `start`."""

    def round_trip(self, frames: Frames) -> Frames:
        """What the VAE makes of a video: encoded and decoded."""


class EngineRenderer:
    """Implements `Renderer` with the engine that the server runs.

    Args:
        settings: As for a server.

    Raises:
        EasyAnimError: there is no such model or device.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = resolve_device(settings.device)
        self._engine = Engine.from_settings(settings)
        self._stopwatch = measure.Stopwatch(self._device)

    def facts(self) -> dict[str, Any]:
        """Model, device and how it computes; `answer` changes with any weight."""
        model = self._engine.model
        return {
            "model": model.name,
            "parameters": model.parameters,
            "answer": self._answer(),
            "device": model.device,
            "dtype": model.dtype,
            "backend": self._settings.backend,
            "precision": self._settings.precision,
            "noise_augmentation": self._noise(),
            "torch": torch.__version__,
        }

    def _noise(self) -> float:
        asked = self._settings.noise_augmentation
        return self._engine.capabilities.defaults.noise_augmentation if asked is None else asked

    def prepare(self, buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
        """Compile and warm, as a server does before it serves."""
        ready = self._engine.prepare(buckets)
        return [
            {key: item.facts()[key] for key in ("bucket", "backend", "precision", "attention", "guidance_batch")}
            for item in ready
        ]

    def render(self, case: Case, setting: Setting, guidance: float, start: Frames) -> Rendered:
        """Take all steps and decode."""
        job = Job(
            id=f"case {case.index}",
            prompt=case.prompt,
            negative_prompt=recommended_negative(case.prompt),
            bucket=case.bucket,
            steps=setting.steps,
            guidance=guidance,
            seed=case.seed,
            start=picture_of(start),
            acceleration=setting.acceleration,
        )
        before, sampling = self._stopwatch.once(lambda: self._engine.begin(job))

        def denoise() -> None:
            while not sampling.done:
                self._engine.step(sampling)

        denoising, _ = self._stopwatch.once(denoise)
        after, groups = self._stopwatch.once(lambda: list(self._engine.decode(sampling)))
        work = self._engine.work(sampling)
        return Rendered(
            np.concatenate(groups), work.predictions, work.reused_steps, before + denoising + after, denoising
        )

    def round_trip(self, frames: Frames) -> Frames:
        """Encode without the noise that given pictures get, and decode."""
        # Jobs encode pictures only, and never alone: the engine has no call for it.
        pipeline = self._engine.pipeline
        assert isinstance(pipeline, EasyAnimatePipeline)
        vae = pipeline.vae
        dtype = torch.bfloat16 if self._engine.model.dtype == "bfloat16" else torch.float32
        video = torch.from_numpy(frames).to(self._device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latents = vae.encode(video.to(dtype), lambda done, total: None)
        decoded = torch.cat(list(vae.decode(latents)), dim=2)[0].float()
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 3, 0).cpu().numpy())

    def _answer(self) -> str:
        """SHA-256 of what it makes of a small fixed job: no two models answer alike."""
        # Its bucket is never prepared, so it runs eagerly, and what is compiled does not change it.
        bucket = Bucket.parse("64x64x5")
        shade = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
        picture = Picture(64, 64, np.repeat(shade[..., None], 3, axis=-1).tobytes())
        job = Job("answer", "the camera pans left", "", bucket, steps=2, guidance=2.0, seed=0, start=picture)
        sampling = self._engine.begin(job)
        while not sampling.done:
            self._engine.step(sampling)
        digest = hashlib.sha256(self._engine.fingerprint(sampling).encode())
        for frames in self._engine.decode(sampling):
            digest.update(frames.tobytes())
        return digest.hexdigest()
