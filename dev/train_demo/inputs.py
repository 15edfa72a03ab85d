"""What the networks are given: encoded pictures and token ids, as the server gives them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.engine.families.easyanimate_v51.inputs import BLACK
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS, in_template

NOISE_ON_PICTURES = EASYANIMATE_V51.defaults.noise_augmentation
"""Standard deviation, as the server adds it by default to given pictures in [-1, 1]."""


def given_video(video: Tensor, with_end: Tensor) -> Tensor:
    """What the server encodes of a given picture: noise on it, and black where nothing is given.

    Args:
        video: (batch, 3, frames, height, width) in [-1, 1].
        with_end: (batch,) bool, whether the last frame is given as well.
    """
    given = torch.full_like(video, BLACK)
    pixels = ((video[:, :, (0, -1)].clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    noisy = torch.where(pixels == BLACK, pixels, pixels + NOISE_ON_PICTURES * torch.randn_like(pixels))
    given[:, :, 0] = noisy[:, :, 0]
    given[:, :, -1] = torch.where(with_end.view(-1, 1, 1, 1), noisy[:, :, 1], given[:, :, -1])
    return given


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Token ids in the conversation template, (texts, 256), padded on the right as the server does."""
    whole = tokenizer(
        text=[in_template(tokenizer, text) for text in texts],
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        padding_side="right",
        return_tensors="pt",
    )
    ids: Tensor = whole.input_ids
    return ids
