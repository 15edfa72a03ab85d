"""Writes a trained model as a folder in diffusers layout, which the server loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from dev.train_demo import state, vae_forward
from dev.train_demo.denoiser import Denoiser
from dev.train_demo.networks import Sizes, text_config
from easyanim_server.engine.families.easyanimate_v51 import builtin

INDEX = {
    "_class_name": "EasyAnimateInpaintPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLMagvit"],
}


def export(
    folder: Path, vae_run: Path, transformer_run: Path, tokenizer: PreTrainedTokenizerBase, sizes: Sizes
) -> dict[str, int]:
    """Write averaged weights in float16; other files in the folder, such as its card, stay.

    The text encoder's last layer, LM head and vision tower, which nothing runs, are not written.

    Returns:
        Bytes of weights by component.
    """
    net = Denoiser(sizes, tokenizer.pad_token_id)
    state.load_averages(transformer_run, {"net": net})
    written = export_vae(folder, vae_run, sizes)
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    net.transformer.save_config(folder / "transformer")
    builtin.scheduler().save_config(folder / "scheduler")
    save_tokenizer(tokenizer, folder / "tokenizer")
    config = text_config(sizes)
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.save_pretrained(folder / "text_encoder")
    written["transformer"] = _write(net.transformer, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    written["text_encoder"] = _write(net.text_encoder, folder / "text_encoder" / "model.safetensors")
    return written


def export_vae(folder: Path, vae_run: Path, sizes: Sizes) -> dict[str, int]:
    """Write the VAE alone: what training the transformer needs of it."""
    encoder = vae_forward.load(vae_run, sizes, torch.device("cpu"))
    encoder.save_config(folder / "vae")
    return {"vae": _write(encoder, folder / "vae" / "diffusion_pytorch_model.safetensors")}


def _write(network: nn.Module, file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return file.stat().st_size


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for word in ("is_local", "local_files_only"):  # of how it was loaded
        tokenizer.init_kwargs.pop(word, None)
    tokenizer.save_pretrained(folder)
