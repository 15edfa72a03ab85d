"""A model's folder, in diffusers' layout or its authors': which ones are refused, and how the others become modules."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import EasyAnimateTransformer3DModel, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLConfig

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.config import model_defaults as modeldefaults
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.vae_attention import own_names
from easyanim_server.engine.families.easyanimate_v51.vae_folder import attention_heads, vae_outline, wrong_inputs
from easyanim_server.engine.kernels.float16 import wide_type
from easyanim_server.engine.weights import read as weights
from easyanim_server.engine.weights.contents import blamed_on, read_object, refuse_mistaken
from easyanim_server.engine.weights.layout import CONFIG_FILES
from easyanim_server.engine.weights.original import transformer_name
from easyanim_server.engine.weights.read import files_of, load_weights

# Diffusers warns of keys that published configurations have, and of ours.
_UNREAD_KEYS = ("cache_mag_vae", "clip_channels", "snr_shift_scale", positions.KEY)
logging.getLogger("diffusers.configuration_utils").addFilter(
    lambda record: not any(key in record.getMessage() for key in _UNREAD_KEYS)
)

_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"
"""Stems of the libraries' weight files."""


def check(folder: Path, model: str) -> None:
    """Refuse what this server cannot run, from configurations and names alone; no weight is read.

    Args:
        folder: In either layout, with or without weights.
        model: What the operator called it, for the message.

    Raises:
        UnsupportedModel: says what the model is and what to use instead.
    """
    problem = _problem(folder)
    if problem:
        raise UnsupportedModel(f"{model} {problem}; use {DEFAULT_MODEL} instead")


def weight_files(folder: Path) -> list[str]:
    """Name the files, relative to `folder`, whose weights `read` needs. They need not exist yet."""
    text_encoder = TrimmedTextEncoder.on_meta(_text_encoder_config(folder))
    return [
        *(f"transformer/{name}" for name in files_of(folder / "transformer", _DIFFUSERS)),
        *(f"vae/{name}" for name in files_of(folder / "vae", _DIFFUSERS)),
        *(f"text_encoder/{name}" for name in files_of(folder / "text_encoder", _TRANSFORMERS, text_encoder.own_name)),
    ]


def outline(folder: Path, model: str) -> Components:
    """Build the networks of a folder that `check` accepts on the meta device; no weight is read.

    Raises:
        UnsupportedModel: the folder is refused.
        ConfigurationError: its `easyanim.json` is damaged.
    """
    check(folder, model)
    described = {name: folder / name / file for name, file in CONFIG_FILES.items()}
    with blamed_on(described["transformer"]), torch.device("meta"):
        transformer = EasyAnimateTransformer3DModel.from_config(read_object(described["transformer"]))
    vae = vae_outline(folder)
    if "cache_mag_vae" not in vae.config:
        # The stock pipeline reads this published key, which the class itself does not know.
        vae.register_to_config(cache_mag_vae=True)
    with blamed_on(described["scheduler"]):
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(read_object(described["scheduler"]))
    with blamed_on(described["text_encoder"]):
        text_encoder = TrimmedTextEncoder.on_meta(_text_encoder_config(folder))
    return Components(
        name=model,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(folder, model),
        scheduler=scheduler,
        defaults=modeldefaults.read(folder),
    )


def check_weights(modules: Components, folder: Path) -> None:
    """Refuse a folder whose weights `read` cannot load, by their headers; no weight is read.

    Args:
        modules: What `outline` made of the folder.
        folder: The same.

    Raises:
        UnsupportedModel: says of a file what it is instead, or which tensors do not fit.
    """
    weights.check_weights(modules.transformer, folder / "transformer", _DIFFUSERS, transformer_name)
    weights.check_weights(modules.vae, folder / "vae", _DIFFUSERS, own_names(attention_heads(folder)))
    text = modules.text_encoder
    assert isinstance(text, TrimmedTextEncoder)
    weights.check_weights(text, folder / "text_encoder", _TRANSFORMERS, text.own_name)


def read(folder: Path, model: str, *, device: torch.device, dtype: torch.dtype, own: bool = False) -> Components:
    """Load a folder that `check` accepts.

    Args:
        folder: In either layout, with safetensors weights.
        model: What the operator called it; becomes the modules' name.
        device: Where the networks go.
        dtype: Of the weights, whatever the files hold; the VAE's are float32 beside float16.
        own: Whether weights are to have memory of their own, also where files could be mapped.

    Raises:
        UnsupportedModel: the folder is refused, or its weights do not fit its configuration.
    """
    modules = outline(folder, model)
    check_weights(modules, folder)
    for name, network, rename, of in (
        ("transformer", modules.transformer, transformer_name, dtype),
        ("vae", modules.vae, own_names(attention_heads(folder)), wide_type(dtype)),
    ):
        load_weights(network, folder / name, _DIFFUSERS, rename, device=device, dtype=of, own=own)
    text = modules.text_encoder
    assert isinstance(text, TrimmedTextEncoder)
    load_weights(text, folder / "text_encoder", _TRANSFORMERS, text.own_name, device=device, dtype=dtype, own=own)
    return modules


def _problem(folder: Path) -> str | None:
    """Complete the sentence that begins with the model's name, or None where nothing is wrong."""
    if not (folder / "model_index.json").is_file():
        return "has no model_index.json, so it is no model's folder"
    index = read_object(folder / "model_index.json")  # whose _class_name is wrong in published models
    if any(index.get("text_encoder_2") or ()):  # its authors name both parts, and leave them empty
        return "is half of EasyAnimate V5: it has text_encoder_2, and transformer/config.json has no text_embed_dim_t5"
    for component, file in CONFIG_FILES.items():
        if not (folder / component / file).is_file():
            return f"has no {component}/{file}"
    transformer, vae, text_encoder, _, scheduler = (
        read_object(folder / name / file) for name, file in CONFIG_FILES.items()
    )
    if not transformer.get("enable_text_attention_mask", True):
        return "is half of EasyAnimate V5: enable_text_attention_mask is false, and there is no text_embed_dim_t5"
    if text_encoder.get("model_type") != "qwen2_vl":
        return f"reads prompts with {text_encoder.get('model_type')}, and EasyAnimate V5.1 with qwen2_vl"
    if scheduler.get("_class_name") != "FlowMatchEulerDiscreteScheduler":
        return f"is sampled with {scheduler.get('_class_name')}, and V5.1 with FlowMatchEulerDiscreteScheduler"
    try:
        positions.formula(transformer, "original")
    except ValueError as error:
        return f"has a transformer/config.json whose {error}"
    return wrong_inputs(folder, transformer, vae)


def _text_encoder_config(folder: Path) -> Qwen2VLConfig:
    with blamed_on(folder / "text_encoder/config.json"):
        return Qwen2VLConfig.from_dict(read_object(folder / "text_encoder/config.json"))


def _tokenizer(folder: Path, model: str) -> PreTrainedTokenizerBase:
    for file in sorted((folder / "tokenizer").iterdir()):
        if file.suffix in (".json", ".jinja", ".txt"):
            refuse_mistaken(file)
    with blamed_on(folder / "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    if not tokenizer.chat_template:
        raise UnsupportedModel(f"the tokenizer of {model} has no chat template; use {DEFAULT_MODEL} instead")
    tokenizer.padding_side = "right"  # Qwen2-VL publishes left, for generation
    return tokenizer
