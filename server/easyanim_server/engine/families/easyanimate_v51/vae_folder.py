"""What all EasyAnimate checkpoints share: the VAE of a folder, and what the transformer reads beside latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.families.easyanimate_v51 import vae_attention
from easyanim_server.engine.weights.contents import blamed_on, read_object, typed
from easyanim_server.engine.weights.read import stored_names

DIFFUSERS = "diffusion_pytorch_model"
"""Stem of weight files."""

LATENT_CHANNELS = 16
"""Of the VAE where its configuration does not say."""


def wrong_inputs(folder: Path, transformer: dict[str, Any], vae: dict[str, Any]) -> str | None:
    """What is wrong with what a transformer reads and a VAE makes; completes a sentence as `problem` does."""
    latent = typed(vae, folder / "vae/config.json", "latent_channels", int, LATENT_CHANNELS)
    channels = typed(transformer, folder / "transformer/config.json", "in_channels", int, None)
    levels = typed(vae, folder / "vae/config.json", "block_out_channels", list, [1] * 4)
    kinds = {
        2 * latent: "a Control model, which follows a control video",
        3 * latent: "a Control model, which follows a control video",
        2 * latent + 6: "a Control-Camera model, which follows a camera path",
    }
    if channels not in (latent, 2 * latent + 1):
        kind = kinds.get(channels, "no image-to-video model")
        return (
            f"is {kind}: its transformer has {channels} input channels, image-to-video has {2 * latent + 1}, "
            f"and text-to-video {latent}"
        )
    if not transformer.get("resize_inpaint_mask_directly", True):
        return "encodes its mask with the VAE (resize_inpaint_mask_directly is false), which no published model does"
    if len(levels) != 4:
        return "has a VAE of another compression than 4x8x8"
    return None


def vae_outline(folder: Path) -> AutoencoderKLMagvit:
    """Build a folder's VAE on the meta device, with attention in its middle where the checkpoint has it."""
    file = folder / "vae/config.json"
    with blamed_on(file), torch.device("meta"):
        vae = AutoencoderKLMagvit.from_config(read_object(file))
    heads = attention_heads(folder)
    if heads:
        vae_attention.add_attention(vae, heads)
    return vae


def attention_heads(folder: Path) -> int:
    """Of the VAE's attention; 0 where it has none."""
    config: dict[str, Any] = read_object(folder / "vae/config.json")
    names = stored_names(folder / "vae", DIFFUSERS)
    # Before weights are downloaded, the configuration is all there is.
    stored = any(vae_attention.KEYS in name for name in names) if names else bool(config.get(vae_attention.USE))
    try:
        return vae_attention.attention_of(config, stored)
    except ValueError as error:
        raise UnsupportedModel(f"{folder / 'vae/config.json'}: {error}") from error
