"""What an engine is loaded with: settings, resolved once for the device that is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from easyanim_server.config import tuned as tuning
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.execution import Backend, Precision, Tiling
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.placement import PlacementSetting
from easyanim_server.engine.devices import device_name, locked_limit, resolve_device, resolve_dtype


@dataclass(frozen=True)
class EngineConfig:
    """All that `Engine.load` goes by; it reads no settings, environment or tuning file of its own."""

    model: str
    revision: str | None
    device: torch.device
    dtype: torch.dtype
    buckets: tuple[Bucket, ...]
    """What room is needed for; empty means the model's own."""
    attention_mode: Literal["original", "diffusers"]
    noise_augmentation: float | None
    """None means what the model was trained with."""
    backend: Backend
    precision: Precision
    placement: PlacementSetting
    attention: str
    guidance_batch: Literal["auto", "1", "2"]
    vae_tiling: Tiling
    vae_slicing: bool
    vram_limit_gib: float | None
    """Most of the device's memory to take; None means all that is free."""
    locked_limit: int
    """Most bytes of host memory to lock into place."""
    cache_dir: Path | None
    cpu_threads: int
    """0 leaves them to torch."""
    cache_coefficients: Path | None
    tuned: str
    """Where settings were tuned, in a few words; empty where they were not."""

    @classmethod
    def resolve(cls, settings: Settings) -> EngineConfig:
        """Find device, type and limits that settings mean on this machine.

        Raises:
            ConfigurationError: there is no such device, or it is another one than the settings were tuned on.
        """
        device = resolve_device(settings.device)
        source = ""
        if settings.tuned is not None:
            found = tuning.read(settings.tuned)
            found.require_device(device_name(device), settings.tuned)
            source = found.source
        return cls(
            model=settings.model,
            revision=settings.revision,
            device=device,
            dtype=resolve_dtype(settings.dtype, device),
            buckets=settings.buckets,
            attention_mode=settings.attention_mode,
            noise_augmentation=settings.noise_augmentation,
            backend=settings.backend,
            precision=settings.precision,
            placement=settings.placement,
            attention=settings.attention,
            guidance_batch=settings.guidance_batch,
            vae_tiling=settings.vae_tiling,
            vae_slicing=settings.vae_slicing == "on",
            vram_limit_gib=settings.vram_limit_gib,
            locked_limit=locked_limit(settings.pinned_memory_gib),
            cache_dir=settings.cache_dir,
            cpu_threads=settings.cpu_threads,
            cache_coefficients=settings.cache_coefficients,
            tuned=source,
        )

    def of_model(self, capabilities: Capabilities) -> EngineConfig:
        """The same with the model's own buckets where there are none.

        Raises:
            ConfigurationError: the model does not make a bucket; names it, and what is allowed.
        """
        buckets = self.buckets or capabilities.defaults.buckets
        for bucket in buckets:
            if wrong := capabilities.geometry.refusal(bucket):
                raise ConfigurationError(f"bucket {str(bucket)!r}: {wrong}")
        return replace(self, buckets=buckets)
