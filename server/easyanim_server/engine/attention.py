"""Joint attention over text and video tokens, as a processor for diffusers' `Attention` modules."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

AttentionMode = Literal["original", "diffusers"]
"""`original` is the network as it was trained; `diffusers` repeats its port's omission, for comparison."""

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the video tokens' angles, (video tokens, head channels) float32 each."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let every token attend to every token; the one place where an attention kernel is called.

    Args:
        q: Queries, (batch, heads, tokens, channels).
        k: Keys, of the same shape.
        v: Values, of the same shape.

    Returns:
        Softmax-weighted values, of the same shape.
    """
    return F.scaled_dot_product_attention(q, k, v)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn every pair of neighbouring channels by its token's angle.

    Args:
        x: Queries or keys of the video, (batch, heads, video tokens, channels).
        rope: The angles; computed with in float32.

    Returns:
        Of the shape and dtype of `x`.
    """
    cos, sin = rope
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((-imaginary, real), dim=-1).flatten(-2)  # by a right angle
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


class JointAttention:
    """Attention of one transformer block; takes the place of diffusers' processor on single modules.

    The first blocks (MMDiT) project text with weights of its own, ``add_*_proj`` and ``to_add_out``; in the others
    text and video share ``to_*``. There the original network also sends both through ``to_out``, which the port
    does for the video alone: half of the 7B model's blocks then compute something else than was trained.

    Queries and keys of the video are rotated before text is put in front of them, which spares the slice
    assignment of the port and gives the same values.

    Args:
        mode: Which of the two networks to run.

    Source: EasyAnimate ``easyanimate/models/processor.py``, c2a70d1; diffusers ``EasyAnimateAttnProcessor2_0``.
    """

    def __init__(self, mode: AttentionMode) -> None:
        self.mode = mode

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rope | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend; argument names are diffusers'.

        Args:
            attn: The module whose weights are used.
            hidden_states: Video, (batch, video tokens, dim).
            encoder_hidden_states: Text, (batch, text tokens, dim).
            attention_mask: Not used: the model was trained to attend to padded text as well.
            image_rotary_emb: Angles of the video tokens; text has none.

        Returns:
            Video and text, of the shapes of their inputs.
        """
        video, text = hidden_states, encoder_hidden_states
        shared = attn.add_q_proj is None

        q, k, v = _project(video, attn.heads, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k))
        if image_rotary_emb is not None:
            q, k = rotate(q, image_rotary_emb), rotate(k, image_rotary_emb)

        if shared:
            text_weights, text_norms = (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k)
        else:
            text_weights = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text_norms = (attn.norm_added_q, attn.norm_added_k)
        text_q, text_k, text_v = _project(text, attn.heads, text_weights, text_norms)

        out = attend(torch.cat((text_q, q), 2), torch.cat((text_k, k), 2), torch.cat((text_v, v), 2))
        out = out.transpose(1, 2).flatten(2)  # (batch, text + video tokens, dim)
        text, video = out[:, : text.shape[1]], out[:, text.shape[1] :]

        to_out = attn.to_out[0]  # [1] is dropout, which inference has none of
        if not shared:
            text = attn.to_add_out(text)
        elif self.mode == "original":
            text = to_out(text)
        return to_out(video), text


def _project(
    x: Tensor,
    heads: int,
    weights: tuple[nn.Module, nn.Module, nn.Module],
    norms: tuple[nn.Module | None, nn.Module | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one kind of token: (batch, tokens, dim) to (batch, heads, tokens, channels) each."""
    q, k, v = (weight(x).unflatten(2, (heads, -1)).transpose(1, 2) for weight in weights)
    norm_q, norm_k = norms
    return norm_q(q) if norm_q else q, norm_k(k) if norm_k else k, v
