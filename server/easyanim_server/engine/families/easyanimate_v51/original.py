"""Names of weights in the layout that EasyAnimate's authors publish; all but those below are diffusers' own."""

from __future__ import annotations

import re

_RENAMED = (
    (re.compile(r"\.attn2\.to_([qkv])\."), r".attn1.add_\1_proj."),
    (re.compile(r"\.attn2\.to_out\.0\."), r".attn1.to_add_out."),
    (re.compile(r"\.attn2\.norm_([qk])\."), r".attn1.norm_added_\1."),
)
"""Of the transformer's blocks that have weights for text."""


def transformer_name(stored: str) -> str | None:
    """Translate a name from either layout to diffusers'."""
    for pattern, own in _RENAMED:
        stored = pattern.sub(own, stored)
    return stored
