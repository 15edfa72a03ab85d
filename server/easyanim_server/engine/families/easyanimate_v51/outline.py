"""What an EasyAnimate model weighs, from its networks without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from easyanim_server.engine.families.easyanimate_v51.components import Components, Modules
from easyanim_server.engine.families.easyanimate_v51.cost import Flops, step_flops
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import TILE
from easyanim_server.engine.memory.outline import Outline

GUIDED = 2
"""Predictions of a step with guidance."""


@dataclass(frozen=True)
class Reader:
    """A text encoder, in its parts."""

    network: nn.Module
    table: nn.Module
    """Of its words."""
    layers: Sequence[nn.Module]


def measure(modules: Components, dtype: torch.dtype) -> Outline:
    """Measure networks, which may be on the meta device.

    Args:
        modules: Their own type does not matter.
        dtype: The compute type.
    """
    encoder = modules.text_encoder
    assert isinstance(encoder, TrimmedTextEncoder)
    text = encoder.model
    return measure_all(modules, dtype, [Reader(encoder, text.embed_tokens, list(text.layers))], (MAX_TOKENS,))


def measure_all(modules: Modules, dtype: torch.dtype, readers: Sequence[Reader], texts: Sequence[int]) -> Outline:
    """Measure the networks of a model with any text encoders.

    Args:
        modules: Transformer and VAE are used.
        dtype: The compute type.
        readers: The text encoders, which are needed one after the other.
        texts: Tokens of each of them.
    """
    itemsize = dtype.itemsize

    def weigh(*networks: nn.Module) -> int:
        return itemsize * sum(weight.numel() for network in networks for weight in network.parameters())

    stock = modules.transformer.transformer_blocks
    blocks = tuple(weigh(block) for block in stock)
    config = dict(modules.transformer.config)
    return Outline(
        geometry=modules.geometry,
        text_tokens=sum(texts),
        width=config["num_attention_heads"] * config["attention_head_dim"],
        step_cost=partial(_step_cost, config, tuple(texts)),
        text=weigh(*(reader.network for reader in readers)),
        text_table=weigh(*(reader.table for reader in readers)),
        text_layer=max((weigh(layer) for reader in readers for layer in reader.layers), default=0),
        rest=weigh(modules.transformer) - sum(blocks),
        blocks=blocks,
        blocks_fp8=tuple(whole - _saved(block, itemsize) for whole, block in zip(blocks, stock, strict=True)),
        vae=weigh(modules.vae),
        vae_channels=modules.vae.config.block_out_channels[0],
        vae_tile=TILE,
        itemsize=itemsize,
    )


def _step_cost(config: dict[str, int], texts: tuple[int, ...], video_tokens: int) -> Flops:
    return step_flops(config, video_tokens, texts[0], GUIDED, texts_t5=sum(texts[1:]))


def _saved(block: nn.Module, itemsize: int) -> int:
    """Bytes that 8-bit weights of a stock block's large products save, less their scales."""
    branches = [block.attn1, block.ff, block.txt_ff]
    linear = [
        layer
        for branch in branches
        if isinstance(branch, nn.Module)
        for layer in branch.modules()
        if isinstance(layer, nn.Linear)
    ]
    return sum((itemsize - 1) * layer.weight.numel() - 4 * layer.out_features for layer in linear)
