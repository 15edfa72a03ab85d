"""A second family of models: other compression, other task, one convolution for a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.model import Capabilities, TokenizerSpec
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.base import LoadOptions, Match, Refusal
from easyanim_server.engine.families.easyanimate_v51.cost import Flops
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights.index import CheckpointIndex

WEIGHTS = "net/net.safetensors"


class FakeFamily:
    """Implements `families.base.ModelFamily`."""

    name = "fake"

    def recognise(self, index: CheckpointIndex) -> Match | Refusal:
        if index.config("net/config.json").get("kind") != "fake":
            return Refusal(f"{index.name} is no fake")
        shape = index.tensors("net").get("weight")
        return Match() if shape and len(shape) == 5 else Refusal(f"{index.name} is a fake without a 3D convolution")

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        channels = index.tensors("net")["weight"]
        assert channels is not None
        geometry = Geometry(temporal=2, spatial=4, patch=1, latent_channels=channels[0], max_frames=9)
        defaults = ModelDefaults(steps=3, guidance=1.0)
        return Capabilities(
            self.name, frozenset({"depth"}), geometry, (TokenizerSpec("none", 1),), ("euler",), defaults
        )

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        return [WEIGHTS]

    def outline(self, index: CheckpointIndex, dtype: torch.dtype) -> Outline:
        weights = dtype.itemsize * sum(weight.numel() for weight in self._network(index).parameters())
        return Outline(
            geometry=self.capabilities(index).geometry, text_tokens=0, width=1, step_cost=lambda tokens: Flops(0, 0),
            text=0, text_table=0, text_layer=0, rest=0, blocks=(weights,), blocks_fp8=(weights,), vae=0,
            vae_channels=1, vae_tile=512, itemsize=dtype.itemsize,
        )  # fmt: skip

    def _network(self, index: CheckpointIndex) -> nn.Module:
        shape = index.tensors("net")["weight"]
        assert shape is not None
        with torch.device("meta"):
            return nn.Conv3d(shape[1], shape[0], shape[2], bias=False)

    def load(self, index: CheckpointIndex, options: LoadOptions) -> nn.Module:
        assert index.folder is not None
        network = self._network(index)
        network.load_state_dict(load_file(index.folder / WEIGHTS), assign=True)
        return network.to(options.device, options.dtype)


def write(folder: Path, channels: int = 6) -> None:
    """Write a checkpoint of the family."""
    (folder / "net").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "net/config.json").write_text(json.dumps({"kind": "fake"}))
    save_file({"weight": torch.ones(channels, 3, 1, 1, 1)}, folder / WEIGHTS)
