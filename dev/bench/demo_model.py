"""Writes a model of the demo's sizes with random weights, as training would export it: its speed is the demo's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from dev.train_demo import export
from dev.train_demo.__main__ import learn_tokenizer
from dev.train_demo.denoiser import Denoiser
from dev.train_demo.networks import Sizes, make_vae
from dev.train_demo.optimiser import MuonAdamW
from dev.train_demo.state import Run

DEVIATION = 0.05
"""Of what is added to every weight: what training begins with is silent in places, and would hide rounding."""


def write(folder: Path, sizes: Sizes | None = None, seed: int = 0) -> None:
    """Make the networks, and send them through the exporter.

    Args:
        folder: Where the model goes, in diffusers layout.
        sizes: Of the networks; by default the demo's.
        seed: Of the weights.
    """
    sizes = sizes or Sizes()
    torch.manual_seed(seed)
    tokenizer = learn_tokenizer(sizes, texts=2000)
    networks = {"vae": make_vae(sizes), "net": Denoiser(sizes, tokenizer.pad_token_id)}
    with tempfile.TemporaryDirectory() as runs:
        for name, network in networks.items():
            _disturb(network)
            run = Run({name: network}, MuonAdamW(network.parameters(), [], rate=1e-3, decay=0.0), decay=0.0)
            run.save(Path(runs) / name, {})
        export.export(folder, Path(runs) / "vae", Path(runs) / "net", tokenizer, sizes)


@torch.no_grad()
def _disturb(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=DEVIATION)
