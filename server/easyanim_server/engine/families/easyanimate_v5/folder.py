"""A folder with an EasyAnimate V5, in the authors' layout or diffusers', and how it becomes modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit, DDIMScheduler, EasyAnimateTransformer3DModel
from transformers import BertConfig, T5Config

from easyanim_server.config import model_defaults
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v5.schedule import check as check_scheduler
from easyanim_server.engine.families.easyanimate_v5.text import PromptIds
from easyanim_server.engine.families.easyanimate_v51 import vae_attention
from easyanim_server.engine.families.easyanimate_v51.original import transformer_name
from easyanim_server.engine.weights.contents import blamed_on, read_object
from easyanim_server.engine.weights.read import Rename, as_stored, check_weights, files_of, load_weights, stored_names

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""Stems of the libraries' weight files."""

TRANSFORMER_DEFAULTS = {"enable_text_attention_mask": False, "add_norm_text_encoder": False}
"""What configurations leave out, and the authors' code fills in."""


def weight_files(folder: Path) -> list[str]:
    """Name the files, relative to `folder`, whose weights `read` needs. They need not exist yet."""
    names = []
    for component, (stem, rename) in _parts(folder).items():
        names += [f"{component}/{name}" for name in files_of(folder / component, stem, rename)]
    return names


def outline(folder: Path, model: str) -> ComponentsV5:
    """Build the networks on the meta device; no weight is read.

    Args:
        folder: With all configurations.
        model: What the operator called it; becomes the modules' name.

    Raises:
        UnsupportedModel: the configurations describe no networks.
        ConfigurationError: its `easyanim.json` is damaged.
    """
    described = folder / "transformer/config.json"
    with blamed_on(described), torch.device("meta"):
        transformer = EasyAnimateTransformer3DModel.from_config(TRANSFORMER_DEFAULTS | read_object(described))
    described = folder / "scheduler/scheduler_config.json"
    with blamed_on(described):
        scheduler = DDIMScheduler.from_config(read_object(described))
    check_scheduler(scheduler, model)
    return ComponentsV5(
        name=model,
        transformer=transformer,
        vae=_vae(folder),
        text_encoder=BertEncoder.on_meta(_bert_config(folder)),
        text_encoder_2=T5Encoder.on_meta(_t5_config(folder)),
        tokenizer=PromptIds.bert(folder / "tokenizer"),
        tokenizer_2=PromptIds.t5(folder / "tokenizer_2"),
        scheduler=scheduler,
        defaults=model_defaults.read(folder),
    )


def read(folder: Path, model: str, *, device: torch.device, dtype: torch.dtype, own: bool = False) -> ComponentsV5:
    """Load a folder.

    Args:
        folder: With safetensors weights, in either layout.
        model: As in `outline`.
        device: Where the networks go.
        dtype: Of the weights, whatever the files hold.
        own: Whether weights are to have memory of their own, also where files could be mapped.

    Raises:
        UnsupportedModel: the configurations describe no networks, or the weights do not fit them.
        ConfigurationError: as `outline`.
    """
    modules = outline(folder, model)
    parts = _parts(folder)
    for component, (stem, rename) in parts.items():  # all headers before any weight
        check_weights(getattr(modules, component), folder / component, stem, rename)
    for component, (stem, rename) in parts.items():
        network = getattr(modules, component)
        load_weights(network, folder / component, stem, rename, device=device, dtype=dtype, own=own)
    return modules


def _parts(folder: Path) -> Mapping[str, tuple[str, Rename]]:
    """Stem of the weight files, and the names in the network, of each component."""
    attends = _attention_heads(folder) > 0

    def vae_name(stored: str) -> str | None:
        return None if not attends and ".mid_block.attentions." in stored else stored

    return {
        "transformer": (DIFFUSERS, transformer_name),
        "vae": (DIFFUSERS, as_stored if attends else vae_name),
        "text_encoder": (TRANSFORMERS, BertEncoder.on_meta(_bert_config(folder)).own_name),
        "text_encoder_2": (TRANSFORMERS, T5Encoder.on_meta(_t5_config(folder)).own_name),
    }


def _vae(folder: Path) -> AutoencoderKLMagvit:
    config = read_object(folder / "vae/config.json")
    with blamed_on(folder / "vae/config.json"), torch.device("meta"):
        vae = AutoencoderKLMagvit.from_config(config)
    heads = _attention_heads(folder)
    if heads:
        vae_attention.add_attention(vae, heads)
    return vae


def _attention_heads(folder: Path) -> int:
    """Of the VAE's attention; 0 where it has none."""
    config: dict[str, Any] = read_object(folder / "vae/config.json")
    names = stored_names(folder / "vae", DIFFUSERS)
    # Before weights are downloaded, the configuration is all there is.
    stored = any(".mid_block.attentions." in name for name in names) or (not names and config.get(vae_attention.USE, True))
    try:
        return vae_attention.attention_of(config, bool(stored))
    except ValueError as error:
        raise UnsupportedModel(f"{folder / 'vae/config.json'}: {error}") from error


def _bert_config(folder: Path) -> BertConfig:
    file = folder / "text_encoder/config.json"
    with blamed_on(file):
        return BertConfig.from_dict(read_object(file))


def _t5_config(folder: Path) -> T5Config:
    file = folder / "text_encoder_2/config.json"
    with blamed_on(file):
        return T5Config.from_dict(read_object(file))
