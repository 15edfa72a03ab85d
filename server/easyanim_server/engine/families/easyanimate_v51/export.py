"""Writes a model as a folder in diffusers layout, in shards, one network after the other."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import __version__ as diffusers_version
from huggingface_hub import save_torch_state_dict
from transformers import Qwen2VLConfig

from easyanim_server.engine.families.easyanimate_v51.components import Components

MAX_SHARD_SIZE = "2GB"
"""Of a file: as many bytes of a file are in memory at once when it is read."""


def write(modules: Components, text_config: Qwen2VLConfig, folder: Path) -> None:
    """Write what `folder.read` reads back bit by bit.

    The text encoder is written as trimmed as it is in memory, so stock transformers would miss its last layer.

    Args:
        modules: With weights, on any device.
        text_config: Of the whole Qwen2-VL.
        folder: Where to; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    modules.transformer.save_pretrained(folder / "transformer", max_shard_size=MAX_SHARD_SIZE)
    modules.vae.save_pretrained(folder / "vae", max_shard_size=MAX_SHARD_SIZE)
    (folder / "text_encoder").mkdir()
    save_torch_state_dict(
        modules.text_encoder.state_dict(),
        folder / "text_encoder",
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=MAX_SHARD_SIZE,
    )
    text_config.save_pretrained(folder / "text_encoder")
    modules.tokenizer.save_pretrained(folder / "tokenizer")
    modules.scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "EasyAnimateInpaintPipeline",
        "_diffusers_version": diffusers_version,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLMagvit"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
