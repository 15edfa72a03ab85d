"""The loaded parts of an EasyAnimate V5."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLMagvit, DDIMScheduler, EasyAnimateTransformer3DModel

from easyanim_server.domain.defaults import PUBLISHED, ModelDefaults
from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v5.schedule import schedule_for
from easyanim_server.engine.families.easyanimate_v5.text import BertT5Text, PromptIds
from easyanim_server.engine.families.easyanimate_v51.components import fingerprint_of, published_coefficients
from easyanim_server.engine.families.easyanimate_v51.text import TextSide
from easyanim_server.engine.solvers.base import Schedule

CACHE_COEFFICIENTS: dict[tuple[int, int], tuple[float, ...]] = {
    (36, 18): (-3642.04720, 1437.64725, -193.045263, 10.9596499, -0.170663507),
}
"""Upstream's fit by count of layers and of MMDiT layers: EasyAnimate V5 7B InP. Of 12B none was published."""


@dataclass
class ComponentsV5:
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
    defaults: ModelDefaults = PUBLISHED
    """What requests get that leave it out."""

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
