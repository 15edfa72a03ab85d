"""Folders of models: loads them, and spoils them."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file

from easyanim_server.engine.weights import checkpoint

CPU = torch.device("cpu")


def load(model, dtype=torch.float32, revision=None):
    return checkpoint.load(str(model), device=CPU, dtype=dtype, revision=revision)


def edit(file, **changes) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename_weights(file, rename) -> None:
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
