"""Folders of models: loads them, and spoils them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.weights import checkpoint

CPU = torch.device("cpu")


def load(model: object, dtype: torch.dtype = torch.float32, revision: str | None = None) -> Components:
    loaded: Components = checkpoint.load(str(model), device=CPU, dtype=dtype, revision=revision)
    return loaded


def edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename_weights(file: Path, rename: Callable[[str], str]) -> None:
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
