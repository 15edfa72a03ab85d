"""The loaded parts of one model, whatever they were loaded from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

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
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder


@dataclass
class Components:
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
        return Geometry(
            temporal=self.vae.temporal_compression_ratio,
            spatial=self.vae.spatial_compression_ratio,
            patch=self.transformer.config.patch_size,
            latent_channels=self.vae.config.latent_channels,
            max_frames=catalog.EASYANIMATE_V51.geometry.max_frames,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for: as published, but for the shapes, which its configurations decide."""
        return replace(catalog.expected(self.name), geometry=self.geometry, defaults=self.defaults)

    def fingerprint(self) -> str:
        """SHA-256 over the networks' configurations and their weights' names and shapes, as hex.

        It tells apart architectures and configurations, not fine-tunings of the same shape: hashing 14 GB of
        weights would double the time to start.
        """
        digest = hashlib.sha256()
        # Once all were served with diffusers' positions, and those that are served as ever keep their fingerprint.
        if positions.formula(self.transformer.config, "original") == "original":
            digest.update(f"{positions.KEY} original".encode())
        for module in (self.transformer, self.vae):
            config = {
                key: value for key, value in module.config.items() if not key.startswith("_") and key != positions.KEY
            }
            digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for module in (self.transformer, self.vae, self.text_encoder):
            for name, tensor in module.state_dict().items():
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
        return digest.hexdigest()
