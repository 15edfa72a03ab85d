"""Attention in the middle of the VAE: published with EasyAnimate V5, and absent from diffusers' `AutoencoderKLMagvit`.

Source: EasyAnimate ``easyanimate/vae/ldm/modules/vaemodules/attention.py``, c2a70d1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor, nn
from torch.nn import functional as F

from easyanim_server.engine.kernels.vae_ops import centred

USE, KIND, HEADS = "mid_block_use_attention", "mid_block_attention_type", "mid_block_num_attention_heads"
"""Keys of ``vae/config.json``."""

KEYS = ".mid_block.attentions."
"""In the names of its weights."""

PUBLISHED_KIND = "spatial"

EPSILON = 1e-6
"""Of the norm before attention."""


class SpatialAttention(nn.Module):
    """The pixels of each frame attend to one another, and the result is added to them.

    Args:
        channels: Of the features.
        groups: Of channels that are normalised together, frame by frame.
        heads: Parts that channels are split into.
    """

    def __init__(self, channels: int, groups: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPSILON)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, h, w) to the same shape."""
        (batch, _, frames), (height, width) = x.shape[:3], x.shape[3:]
        images = x.transpose(1, 2).flatten(0, 1)  # (batch * frames, channels, h, w)
        norm = self.group_norm
        normed = F.group_norm(centred(images, norm.num_groups), norm.num_groups, norm.weight, norm.bias, norm.eps)
        pixels = normed.flatten(2).transpose(1, 2)  # (batch * frames, h * w, channels)
        q, k, v = (
            layer(pixels).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = self.to_out(attended).transpose(1, 2).unflatten(2, (height, width))
        y = y.unflatten(0, (batch, frames)).transpose(1, 2)
        summed: Tensor = x + y
        return summed


class AttentiveMidBlock(nn.Module):
    """A middle block with attention between its residual blocks.

    Args:
        convs: The residual blocks of the stock block that this one takes the place of.
        channels: As in `SpatialAttention`.
        groups: As there.
        heads: As there.
    """

    def __init__(self, convs: nn.ModuleList, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.convs = convs
        self.attentions = nn.ModuleList(SpatialAttention(channels, groups, heads) for _ in range(len(convs) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """The stock network's own way; `StreamingVAE` runs the parts itself."""
        x = self.convs[0](x)
        for attention, block in zip(self.attentions, self.convs[1:], strict=True):
            x = block(attention(x))
        return x


def add_attention(vae: AutoencoderKLMagvit, heads: int = 1) -> None:
    """Put attention between the residual blocks in the middle of both halves; weights are to be loaded or drawn."""
    config = vae.config
    channels, groups = config.block_out_channels[-1], config.norm_num_groups
    with torch.device(next(vae.parameters()).device):
        for half in (vae.encoder, vae.decoder):
            half.mid_block = AttentiveMidBlock(half.mid_block.convs, channels, groups, heads)
    vae.register_to_config(**{USE: True, KIND: PUBLISHED_KIND, HEADS: heads})


def attention_of(config: dict[str, Any], stored: bool) -> int:
    """How many heads the attention of a published VAE has; 0 where there is none to be built.

    Args:
        config: ``vae/config.json``.
        stored: Whether the checkpoint has its weights.

    Raises:
        ValueError: names the key that contradicts the weights, or is of another kind, and what is allowed.
    """
    wanted = config.get(USE, stored)
    if wanted and not stored:
        raise ValueError(f"{USE} is true, and there are no weights mid_block.attentions")
    if not wanted:  # weights that nobody asks for stay in their file, as the authors' own loader leaves them there
        return 0
    if config.get(KIND) != PUBLISHED_KIND:
        raise ValueError(f"{KIND} is {config.get(KIND)!r}; must be {PUBLISHED_KIND!r}")
    return int(config.get(HEADS, 1))


def own_names(heads: int) -> Callable[[str], str | None]:
    """What translates names from a VAE's checkpoint: without heads its attention's weights stay in their file."""
    return lambda stored: None if not heads and KEYS in stored else stored
