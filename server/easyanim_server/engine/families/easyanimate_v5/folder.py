"""A folder with an EasyAnimate V5, in the authors' layout or diffusers', and how it becomes modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DDIMScheduler, EasyAnimateTransformer3DModel
from transformers import BertConfig, T5Config

from easyanim_server import catalog
from easyanim_server.config import model_defaults
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v5.schedule import check as check_scheduler
from easyanim_server.engine.families.easyanimate_v5.text import PromptIds
from easyanim_server.engine.families.easyanimate_v51 import positions, vae_attention
from easyanim_server.engine.families.easyanimate_v51.vae_folder import attention_heads, vae_outline, wrong_inputs
from easyanim_server.engine.weights.contents import blamed_on, read_object
from easyanim_server.engine.weights.original import transformer_name
from easyanim_server.engine.weights.read import Rename, check_weights, files_of, load_weights

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""Stems of the libraries' weight files."""

CONFIG_FILES = {
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "text_encoder_2": "config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
"""The file that describes each component."""

TRANSFORMER_DEFAULTS = {"enable_text_attention_mask": False, "add_norm_text_encoder": False}
"""What configurations leave out, and the authors' code fills in."""


def is_v5(folder: Path) -> bool:
    """Whether a folder's transformer reads T5's embeddings, which makes it a V5; the others are not looked at."""
    file = folder / "transformer/config.json"
    return file.is_file() and bool(read_object(file).get("text_embed_dim_t5"))


def problem(folder: Path) -> str | None:
    """Why a folder of which `is_v5` holds cannot run, by configurations alone.

    Returns:
        What completes a sentence that begins with the model's name; None where nothing is wrong.
    """
    for component, file in CONFIG_FILES.items():
        if not (folder / component / file).is_file():
            return (
                f"reads T5's embeddings (text_embed_dim_t5 in transformer/config.json), and has no {component}/{file}"
            )
    transformer, vae, bert, t5, _, _, scheduler = (
        read_object(folder / name / file) for name, file in CONFIG_FILES.items()
    )
    for component, config, known in (("text_encoder", bert, ("bert",)), ("text_encoder_2", t5, ("t5", "mt5"))):
        if config.get("model_type") not in known:
            return (
                f"has a {component} of model_type {config.get('model_type')!r}, and EasyAnimate V5 one of {known[0]!r}"
            )
    for key, width, held in (
        ("text_embed_dim", bert.get("hidden_size"), "text_encoder/config.json's hidden_size"),
        ("text_embed_dim_t5", t5.get("d_model"), "text_encoder_2/config.json's d_model"),
    ):
        if transformer.get(key) != width:
            return f"is of two models: {key} in transformer/config.json is {transformer.get(key)}, {held} is {width}"
    if transformer.get("add_norm_text_encoder"):
        return "is of two models: transformer/config.json has add_norm_text_encoder, as V5.1, and text_embed_dim_t5"
    if scheduler.get("_class_name") != "DDIMScheduler":
        return f"is sampled with {scheduler.get('_class_name')}, and EasyAnimate V5 with DDIMScheduler"
    try:
        positions.formula(transformer, "original")
    except ValueError as error:
        return f"has a transformer/config.json whose {error}"
    return wrong_inputs(folder, transformer, vae)


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
        vae=vae_outline(folder),
        text_encoder=BertEncoder.on_meta(_bert_config(folder)),
        text_encoder_2=T5Encoder.on_meta(_t5_config(folder)),
        tokenizer=PromptIds.bert(folder / "tokenizer"),
        tokenizer_2=PromptIds.t5(folder / "tokenizer_2"),
        scheduler=scheduler,
        defaults=model_defaults.read(folder, catalog.EASYANIMATE_V5.defaults),
    )


def check_stored(modules: ComponentsV5, folder: Path) -> None:
    """Refuse a folder whose weights `read` cannot load, by their headers; no weight is read.

    Raises:
        UnsupportedModel: says of a file what it is instead, or which tensors do not fit.
    """
    for component, (stem, rename) in _parts(folder).items():
        check_weights(getattr(modules, component), folder / component, stem, rename)


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
    check_stored(modules, folder)
    for component, (stem, rename) in _parts(folder).items():
        network = getattr(modules, component)
        load_weights(network, folder / component, stem, rename, device=device, dtype=dtype, own=own)
    return modules


def _parts(folder: Path) -> Mapping[str, tuple[str, Rename]]:
    """Stem of the weight files, and the names in the network, of each component."""
    return {
        "transformer": (DIFFUSERS, transformer_name),
        "vae": (DIFFUSERS, vae_attention.own_names(attention_heads(folder))),
        "text_encoder": (TRANSFORMERS, BertEncoder.on_meta(_bert_config(folder)).own_name),
        "text_encoder_2": (TRANSFORMERS, T5Encoder.on_meta(_t5_config(folder)).own_name),
    }


def _bert_config(folder: Path) -> BertConfig:
    file = folder / "text_encoder/config.json"
    with blamed_on(file):
        return BertConfig.from_dict(read_object(file))


def _t5_config(folder: Path) -> T5Config:
    file = folder / "text_encoder_2/config.json"
    with blamed_on(file):
        return T5Config.from_dict(read_object(file))
