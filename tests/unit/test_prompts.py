from __future__ import annotations

import pytest

from easyanim_server.prompts.negative import NEGATIVE_CHINESE, NEGATIVE_ENGLISH, recommended_negative


@pytest.mark.parametrize("prompt", ["一只猫", "a cat in 北京", "𠮷", "㐀", "猫が走る"])
def test_a_prompt_with_a_han_character_gets_the_chinese_text(prompt: str) -> None:
    assert recommended_negative(prompt) == NEGATIVE_CHINESE


@pytest.mark.parametrize("prompt", ["a cat", "", "кошка", "ねこ", "고양이", "“quoted”，"])
def test_any_other_prompt_gets_the_english_text(prompt: str) -> None:
    assert recommended_negative(prompt) == NEGATIVE_ENGLISH
