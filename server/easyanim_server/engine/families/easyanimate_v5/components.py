"""The loaded parts of an EasyAnimate V5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKLMagvit, DDIMScheduler, EasyAnimateTransformer3DModel

from easyanim_server import catalog
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.model import Capabilities, TokenizerSpec
from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v5.schedule import schedule_for
from easyanim_server.engine.families.easyanimate_v5.text import BertT5Text, PromptIds
from easyanim_server.engine.families.easyanimate_v51.components import (
    Networks,
    fingerprint_of,
    published_coefficients,
    tasks_of,
)
from easyanim_server.engine.families.easyanimate_v51.text import TextSide
from easyanim_server.engine.solvers.base import Schedule

CACHE_COEFFICIENTS: dict[tuple[int, int], tuple[float, ...]] = {
    (36, 18): (-3642.04720, 1437.64725, -193.045263, 10.9596499, -0.170663507),
}
"""Upstream's fit by count of layers and of MMDiT layers: EasyAnimate V5 7B InP. Of 12B none was published."""


@dataclass
class ComponentsV5(Networks):
    """Implements `easyanimate_v51.components.Modules`. All networks are in eval mode, without gradients, in one dtype.

    They are on one device, which is the host where a `Placement` is to bring them to another.
    """

    name: str
    """As the operator named it."""
    transformer: EasyAnimateTransformer3DModel
    """With `text_proj_t5`."""
    vae: AutoencoderKLMagvit
    """With attention in its middle where its checkpoint has it; see `vae_attention`."""
    text_encoder: BertEncoder
    text_encoder_2: T5Encoder
    tokenizer: PromptIds
    tokenizer_2: PromptIds
    scheduler: DDIMScheduler
    compute: torch.device | None = None
    """Where to compute; None stands for where the transformer is."""
    defaults: ModelDefaults = catalog.EASYANIMATE_V5.defaults
    """What requests get that leave it out."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for: as published, but for what its configurations decide."""
        published = catalog.EASYANIMATE_V5
        limits = zip(published.tokenizers, (self.tokenizer.limit, self.tokenizer_2.limit), strict=True)
        return replace(
            published,
            tasks=tasks_of(self.transformer.config, self.vae.config, published.tasks),
            geometry=self.geometry,
            tokenizers=tuple(TokenizerSpec(spec.name, limit) for spec, limit in limits),
            defaults=self.defaults,
        )

    @property
    def cache_coefficients(self) -> tuple[float, ...]:
        """See `Pipeline.cache_coefficients`."""
        config = self.transformer.config
        return published_coefficients(config.num_layers, config.mmdit_layers, CACHE_COEFFICIENTS)

    def text_side(self) -> TextSide:
        """See `Modules.text_side`."""
        return BertT5Text(
            self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer_2, self.device, self.dtype
        )

    def schedule(self, steps: int, solver: Solver) -> Schedule:
        """See `Modules.schedule`."""
        return schedule_for(self.scheduler, steps, solver)

    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.transformer, self.vae, self.text_encoder, self.text_encoder_2)
