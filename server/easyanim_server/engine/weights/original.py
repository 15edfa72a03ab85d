"""The layout in which EasyAnimate's authors publish: its names and configurations, turned into those used here.

The names here are diffusers'. They differ in one place: an MMDiT block keeps the text's attention in a module of its
own, ``attn2``, where diffusers adds it to ``attn1``. No tensor is transposed, split or joined, so that a file of this
layout is mapped and read as any other. Configurations have the keys of the authors' classes, whose defaults differ.

Source: EasyAnimate c2a70d1, ``models/transformer3d.py``, ``models/attention.py`` and ``models/autoencoder_magvit.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from easyanim_server.domain.errors import UnsupportedModel

_TEXT_ATTENTION = {
    "to_q": "add_q_proj",
    "to_k": "add_k_proj",
    "to_v": "add_v_proj",
    "to_out.0": "to_add_out",
    "norm_q": "norm_added_q",
    "norm_k": "norm_added_k",
}
"""Modules of ``attn2``, and what they are called in ``attn1``."""

_OURS = {ours: original for original, ours in _TEXT_ATTENTION.items()}

_BLOCK = r"(transformer_blocks\.\d+\.)"
_ORIGINAL_NAME = re.compile(rf"{_BLOCK}attn2\.({'|'.join(map(re.escape, _TEXT_ATTENTION))})\.(weight|bias)")
_OUR_NAME = re.compile(rf"{_BLOCK}attn1\.({'|'.join(map(re.escape, _OURS))})\.(weight|bias)")

MIDDLE = ".mid_block.attentions."
"""Part of the names of the VAE's weights for attention inside a frame."""

_TRANSFORMER: dict[str, object] = {
    "after_norm": False,
    "time_position_encoding_type": "3d_rope",
    "enable_clip_in_inpaint": False,
    "clip_channels": None,
    "ref_channels": None,
    "swa_layers": None,
    "resize_inpaint_mask_directly": True,
}
"""The only values of the transformers that are published; where a key is left out, the authors' loader fills it in."""

_VAE: dict[str, object] = {
    "spatial_group_norm": True,
    "cache_mag_vae": True,
    "mini_batch_encoder": 4,
    "mini_batch_decoder": 1,
    "scaling_factor": 0.7125,
}
"""The only values of the VAEs that are published."""

_VAE_REQUIRED = ("spatial_group_norm", "cache_mag_vae", "scaling_factor")
"""What the authors' class has other defaults for, so that a key that is left out would have to be guessed."""


def transformer_name(stored: str) -> str:
    """What a tensor of a transformer is called here, whichever layout it is stored in."""
    found = _ORIGINAL_NAME.fullmatch(stored)
    return f"{found[1]}attn1.{_TEXT_ATTENTION[found[2]]}.{found[3]}" if found else stored


def original_name(name: str) -> str:
    """The inverse of `transformer_name`, for messages in the words of the file."""
    found = _OUR_NAME.fullmatch(name)
    return f"{found[1]}attn2.{_OURS[found[2]]}.{found[3]}" if found else name


def is_original(name: str) -> bool:
    """Whether a transformer's tensor has the name that it has in the original layout alone."""
    return _ORIGINAL_NAME.fullmatch(name) is not None


def is_diffusers(name: str) -> bool:
    """Whether a transformer's tensor has the name that it has in diffusers' layout alone."""
    return _OUR_NAME.fullmatch(name) is not None


def check_transformer(config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a transformer that is none of V5's or V5.1's.

    Args:
        config: ``transformer/config.json`` of the original layout.

    Raises:
        UnsupportedModel: names the key, its value and what is allowed.
    """
    for key, value in _TRANSFORMER.items():
        if config.get(key, value) != value:
            raise UnsupportedModel(f"transformer/config.json has {key} {config[key]!r}; must be {value!r}")


def transformer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same transformer for diffusers' class, whose defaults differ."""
    filled = {
        "add_norm_text_encoder": False,  # every V5 model leaves it out
        "enable_text_attention_mask": not config.get("text_embed_dim_t5"),
        "after_norm": False,
        "time_position_encoding_type": "3d_rope",
        "resize_inpaint_mask_directly": True,
    }
    return filled | dict(config)


def check_vae(config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a VAE that is none of V5's or V5.1's.

    What the training's files say of the VAE is not asked: it has no effect in the authors' own loader either.

    Args:
        config: ``vae/config.json`` of the original layout.

    Raises:
        UnsupportedModel: names the key, its value and what is allowed.
    """
    for key, value in _VAE.items():
        if key not in config and key in _VAE_REQUIRED:
            raise UnsupportedModel(f"vae/config.json has no {key}; must have {value!r}, which is no default")
        if config.get(key, value) != value:
            raise UnsupportedModel(f"vae/config.json has {key} {config[key]!r}; must be {value!r}")


def has_attention(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a VAE attends inside a frame in the middle of its halves, as V5's does.

    Args:
        config: Of the VAE, in the original layout.
        names: Of its tensors.

    Raises:
        UnsupportedModel: the configuration asks for attention, and there are no weights for it, or it is of a kind
            that no published model has.
    """
    # Without the key, the authors' class attends, and in three dimensions.
    if not config.get("mid_block_use_attention", True):
        return False
    if not any(MIDDLE in name for name in names):
        raise UnsupportedModel(
            "vae lacks decoder.mid_block.attentions.0.to_q.weight and the other weights of its attention, and "
            "vae/config.json does not have mid_block_use_attention false"
        )
    for key, value, usual in (
        ("mid_block_attention_type", "spatial", "3d"),
        ("mid_block_num_attention_heads", 1, 1),
    ):
        if config.get(key, usual) != value:
            raise UnsupportedModel(f"vae/config.json has {key} {config.get(key, usual)!r}; must be {value!r}")
    return True
