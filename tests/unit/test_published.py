"""Names that the authors have published under, and names that look alike."""

from __future__ import annotations

import re

import pytest

from easyanim_server.domain import published

LIKE = "use alibaba-pai/EasyAnimateV5-7b-zh-InP, which this server reads as it is"


def test_every_published_model_is_found_under_its_own_name() -> None:
    assert len({model.id for model in published.PUBLISHED}) == 21
    for model in published.PUBLISHED:
        assert published.find(model.id) == model
        assert published.find(f"modelscope:PAI/{model.name}") == model
        assert published.resolve(model.name) == model.id
        assert published.resolve(f"modelscope:{model.name}") == f"modelscope:PAI/{model.name}"
        assert (published.refusal(model.id) is not None) is model.follows


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("alibaba-pai/EasyAnimateV5-7b-zh-InP-diffusers", f"does not exist: EasyAnimate V5 was .*{LIKE}"),
        ("alibaba-pai/EasyAnimateV5-7b-zh-Control", "does not exist; use alibaba-pai/EasyAnimateV5.1-7b-zh-InP"),
        ("alibaba-pai/EasyAnimateV5-12b-zh-Control", "Control model, .* yet; use .*/EasyAnimateV5-12b-zh-InP "),
        ("alibaba-pai/EasyAnimateV5.1-7b-zh-Control-Camera-diffusers", "a camera path, .*-7b-zh-InP-diffusers ins"),
        ("alibaba-pai/EasyAnimateV4-XL-2-InP", "is EasyAnimate V4, and this server runs V5 and V5.1"),
        ("alibaba-pai/EasyAnimateV5-Reward-LoRAs", "is no model of EasyAnimate V5"),
        ("modelscope:PAI/EasyAnimateV5.1-12b-zh-Control", "use modelscope:PAI/EasyAnimateV5.1-12b-zh-InP instead"),
    ],
)
def test_names_that_cannot_be_served_have_a_sentence(model: str, sentence: str) -> None:
    assert re.search(sentence, str(published.refusal(model)))


@pytest.mark.parametrize("model", ["someone/EasyAnimateV4-XL", "alibaba-pai/Wan", "./folder", "builtin:tiny"])
def test_other_peoples_names_are_let_be(model: str) -> None:
    assert published.refusal(model) is None
    assert published.find(model) is None
    assert published.resolve(model) == model
