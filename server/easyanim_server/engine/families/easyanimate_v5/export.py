"""Writes a V5 as a folder with diffusers' names, in shards, one network after the other."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import __version__ as diffusers_version
from huggingface_hub import save_torch_state_dict
from torch import nn

from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.text import CONFIG, FAST, PromptIds
from easyanim_server.engine.families.easyanimate_v51.export import MAX_SHARD_SIZE


def write(modules: ComponentsV5, folder: Path) -> None:
    """Write what `folder.read` reads back bit by bit; tokenizers in the tokenizers library's own form.

    Args:
        modules: With weights, on any device.
        folder: Where to; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    modules.transformer.save_pretrained(folder / "transformer", max_shard_size=MAX_SHARD_SIZE)
    modules.vae.save_pretrained(folder / "vae", max_shard_size=MAX_SHARD_SIZE)
    bert, t5 = modules.text_encoder, modules.text_encoder_2
    _write_encoder(bert.model, folder / "text_encoder", {})
    _write_encoder(t5, folder / "text_encoder_2", {"encoder.embed_tokens.weight": "shared.weight"})
    bert.model.config.save_pretrained(folder / "text_encoder")
    t5.encoder.config.save_pretrained(folder / "text_encoder_2")
    _write_tokenizer(modules.tokenizer, folder / "tokenizer", "BertTokenizer")
    _write_tokenizer(modules.tokenizer_2, folder / "tokenizer_2", "T5Tokenizer")
    modules.scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "EasyAnimatePipeline_Multi_Text_Encoder",
        "_diffusers_version": diffusers_version,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "BertModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "BertTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLMagvit"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_encoder(network: nn.Module, folder: Path, stored: dict[str, str]) -> None:
    """Write weights under their published names."""
    folder.mkdir()
    tensors = {stored.get(name, name): tensor for name, tensor in network.state_dict().items()}
    save_torch_state_dict(tensors, folder, filename_pattern="model{suffix}.safetensors", max_shard_size=MAX_SHARD_SIZE)


def _write_tokenizer(ids: PromptIds, folder: Path, kind: str) -> None:
    folder.mkdir()
    ids.tokenizer.save(str(folder / FAST))
    config = {"tokenizer_class": kind, "model_max_length": ids.limit, "pad_token": ids.padding}
    if ids.prefix:
        config |= {"cls_token": ids.prefix, "sep_token": ids.suffix}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
