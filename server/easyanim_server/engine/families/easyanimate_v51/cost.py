"""Floating-point operations of one transformer forward, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode

FEED_FORWARD = 4
"""How many times as wide as the tokens the feed-forward layers are inside."""


@dataclass(frozen=True)
class Flops:
    """Operations of matrix products; a multiplication and an addition count as two."""

    linear: int
    """Of products with weights."""
    attention: int
    """Of products of tokens with tokens."""

    @property
    def total(self) -> int:
        """All of them. Norms, activations and sums are below a thousandth and are not counted, as is usual."""
        return self.linear + self.attention


def step_flops(
    config: Mapping[str, Any],
    tokens: int,
    texts: int,
    batch: int,
    mode: AttentionMode = "original",
    *,
    stock: bool = False,
    texts_t5: int = 0,
) -> Flops:
    """Count the operations of one forward; a step with guidance is a forward with a batch of 2, or two with 1.

    In `original` mode text passes the output projection of every block. The stock network leaves it out in the
    blocks that share their weights between text and video: 0.17 TFLOP less of the 7B model's 376 at 384x672x49.

    Args:
        config: Of an `EasyAnimateTransformer3DModel`.
        tokens: Video tokens; see `Geometry.video_tokens`.
        texts: Text tokens.
        batch: Videos at once.
        mode: Which of the two networks is run.
        texts_t5: Text tokens of T5 beside them, of networks that read both.
        stock: Whether diffusers' forward runs, which takes the text through the last block; ours leaves it there.

    Returns:
        What `torch.utils.flop_counter` counts, to the digit.
    """
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    time, blocks = config["time_embed_dim"], config["num_layers"]
    text_inputs = texts * config["text_embed_dim"] + texts_t5 * (config.get("text_embed_dim_t5") or 0)
    texts += texts_t5
    everything = texts + tokens
    shared = blocks - config["mmdit_layers"]

    # Multiply-adds of each product are (rows) x (columns in) x (columns out).
    projections = everything * dim * 4 * dim  # queries, keys, values, output
    feed_forward = everything * dim * 2 * FEED_FORWARD * dim
    modulation = 2 * time * 6 * dim
    inside = blocks * (projections + feed_forward + modulation)
    if mode == "diffusers":
        inside -= shared * texts * dim * dim

    attention = blocks * 2 * everything * everything * dim  # queries with keys, probabilities with values
    if not stock:
        inside -= texts * dim * 2 * FEED_FORWARD * dim
        attention -= 2 * texts * everything * dim
        if mode == "original" or not shared:
            inside -= texts * dim * dim

    pixels = config["patch_size"] ** 2
    embeddings = dim * time + time * time + text_inputs * dim
    embeddings += tokens * pixels * config["in_channels"] * dim
    head = time * 2 * dim + tokens * dim * pixels * config["out_channels"]

    return Flops(linear=2 * batch * (inside + embeddings + head), attention=2 * batch * attention)
