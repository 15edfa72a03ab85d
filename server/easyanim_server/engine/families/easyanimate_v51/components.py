"""The loaded parts of one model, whatever they were loaded from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateInpaintPipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn
from transformers import PreTrainedTokenizerBase

from easyanim_server import catalog
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.job import TEXT
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.profiles import Solver
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.schedule import schedule_for
from easyanim_server.engine.families.easyanimate_v51.text import QwenText, TextSide
from easyanim_server.engine.solvers.base import Schedule
from easyanim_server.engine.step_cache.teacache import UNFITTED

LATENT_CHANNELS = 16
"""Of the VAE where its configuration does not say."""

CACHE_COEFFICIENTS: dict[tuple[int, int], tuple[float, ...]] = {
    (36, 18): (1.07862322, -4.19362456, 3.06725828, 0.33161686, 0.02374758),
    (48, 48): (-10.47857366, 8.33844143, -0.78477557, 0.68798618, 0.0136149),
}
"""Upstream's fits by count of layers and of MMDiT layers: EasyAnimate V5.1 7B and 12B, InP."""


def published_coefficients(
    layers: int, mmdit_layers: int, fits: Mapping[tuple[int, int], tuple[float, ...]] = CACHE_COEFFICIENTS
) -> tuple[float, ...]:
    """The step cache's polynomial for a network of that shape; the measure itself where none was published."""
    return fits.get((layers, mmdit_layers), UNFITTED)


class Modules(Protocol):
    """What `EasyAnimatePipeline` needs of a loaded model, whichever encoders and schedule it was trained with."""

    name: str
    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit

    @property
    def geometry(self) -> Geometry:
        """What shapes the networks make."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for."""

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""

    @property
    def dtype(self) -> torch.dtype:
        """Compute type of the transformer."""

    @property
    def cache_coefficients(self) -> tuple[float, ...]:
        """See `Pipeline.cache_coefficients`."""

    def text_side(self) -> TextSide:
        """How it reads prompts."""

    def schedule(self, steps: int, solver: Solver) -> Schedule:
        """The noise levels of so many steps with a solver, on the host."""

    def fingerprint(self) -> str:
        """See `Pipeline.fingerprint`."""


class Networks:
    """Facts of a model's transformer and VAE, which are the same for all its text encoders."""

    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    compute: torch.device | None

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        device: torch.device = self.compute or next(self.transformer.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Compute type of the transformer."""
        dtype: torch.dtype = next(self.transformer.parameters()).dtype
        return dtype

    @property
    def geometry(self) -> Geometry:
        """What shapes the networks make, by their configurations."""
        return geometry_of(self.transformer, self.vae)


@dataclass
class Components(Networks):
    """What the engine works with. All networks are in eval mode, without gradients, in one dtype, on one device.

    That device is the host where a `Placement` is to bring them to another.
    """

    name: str
    """As the operator named it: a Hugging Face id, a folder, ``builtin:tiny``, ``synthetic:7b``."""
    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    text_encoder: nn.Module
    """`qwen.TrimmedTextEncoder`: called with (input_ids, attention_mask), each (batch, tokens) int64, it returns the
    stock `hidden_states[-2]`, (batch, tokens, hidden)."""
    tokenizer: PreTrainedTokenizerBase
    """With the chat template; pads on the right."""
    scheduler: FlowMatchEulerDiscreteScheduler
    compute: torch.device | None = None
    """Where to compute; None stands for where the transformer is."""
    defaults: ModelDefaults = catalog.EASYANIMATE_V51.defaults
    """What requests get that leave it out."""

    @classmethod
    def of(cls, pipeline: EasyAnimateInpaintPipeline, name: str) -> Components:
        """Take the parts of a stock pipeline, which goes on sharing their weights.

        Args:
            pipeline: With EasyAnimate V5.1's text encoder, Qwen2-VL; its networks in eval mode without gradients.
            name: Becomes the modules' name.
        """
        return cls(
            name=name,
            transformer=pipeline.transformer,
            vae=pipeline.vae,
            text_encoder=TrimmedTextEncoder.of(pipeline.text_encoder),
            tokenizer=pipeline.tokenizer,
            scheduler=pipeline.scheduler,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for: as published, but for the shapes, which its configurations decide."""
        tasks = tasks_of(self.transformer.config, self.vae.config, catalog.expected(self.name).tasks)
        return replace(catalog.expected(self.name), geometry=self.geometry, defaults=self.defaults, tasks=tasks)

    @property
    def cache_coefficients(self) -> tuple[float, ...]:
        """See `Pipeline.cache_coefficients`."""
        return published_coefficients(self.transformer.config.num_layers, self.transformer.config.mmdit_layers)

    def text_side(self) -> TextSide:
        """See `Modules.text_side`."""
        return QwenText(self)

    def schedule(self, steps: int, solver: Solver) -> Schedule:
        """See `Modules.schedule`."""
        return schedule_for(self.scheduler, steps, solver)

    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.transformer, self.vae, self.text_encoder)


def geometry_of(transformer: Any, vae: Any) -> Geometry:
    """What shapes networks make, by their configurations."""
    return Geometry(
        temporal=vae.temporal_compression_ratio,
        spatial=vae.spatial_compression_ratio,
        patch=transformer.config.patch_size,
        latent_channels=vae.config.latent_channels,
        max_frames=catalog.EASYANIMATE_V51.geometry.max_frames,
    )


def tasks_of(transformer: Mapping[str, Any], vae: Mapping[str, Any], most: frozenset[str]) -> frozenset[str]:
    """Of the tasks that a family has, those that a transformer's input channels leave; arguments are configurations."""
    latent = vae.get("latent_channels", LATENT_CHANNELS)
    return most if transformer.get("in_channels", latent + 1) > latent else frozenset({TEXT})


def fingerprint_of(transformer: Any, vae: Any, *text_encoders: nn.Module) -> str:
    """SHA-256 over the networks' configurations and their weights' names and shapes, as hex.

    It tells apart architectures and configurations, not fine-tunings of the same shape: hashing 14 GB of weights would
    double the time to start.
    """
    digest = hashlib.sha256()
    # Once all were served with diffusers' positions, and those that are served as ever keep their fingerprint.
    if positions.formula(transformer.config, "original") == "original":
        digest.update(f"{positions.KEY} original".encode())
    for module in (transformer, vae):
        config = {
            key: value for key, value in module.config.items() if not key.startswith("_") and key != positions.KEY
        }
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for module in (transformer, vae, *text_encoders):
        for name, tensor in module.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
    return digest.hexdigest()
