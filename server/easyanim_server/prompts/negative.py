"""The texts that EasyAnimate's authors recommend as negative prompts, and the choice between them."""

from __future__ import annotations

import re

NEGATIVE_ENGLISH = "Twisted body, limb deformities, text captions, comic, static, ugly, error, messy code."
NEGATIVE_CHINESE = "扭曲的身体，肢体残缺，文本字幕，漫画，静止，丑陋，错误，乱码。"
RECOMMENDED = frozenset((NEGATIVE_ENGLISH, NEGATIVE_CHINESE))

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
"""Chinese characters: the unified ideographs with their extensions, and the compatibility ideographs."""


def recommended_negative(prompt: str) -> str:
    """Choose the negative prompt in the language of `prompt`.

    Args:
        prompt: What the video shall show.

    Returns:
        The Chinese text where `prompt` has a Han character, otherwise the English one.

    Source: EasyAnimate ``app.py`` and ``predict_i2v.py``, c2a70d1.
    """
    return NEGATIVE_CHINESE if _HAN.search(prompt) else NEGATIVE_ENGLISH
