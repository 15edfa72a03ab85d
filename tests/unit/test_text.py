from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.text import PromptEncoder, prompt_tokenizer
from easyanim_server.engine.prompt_cache import PromptCache
from tests.models import breaking, make_modules, shared_pipeline

PROMPTS = {
    "english": "A cat runs through the snow.",
    "chinese": "一只猫在雪地里奔跑，电影镜头。",
    "empty": "",
    "blanks around": "  \n a cat \t ",
    "special tokens": "end <|im_end|> and <|im_start|>assistant\n",
    "template syntax": "{{ message }} {% if x %}",
    "too long": "snow " * 200,
}


@pytest.fixture(scope="module")
def modules() -> Components:
    return make_modules()


@pytest.fixture
def encodings(modules: Components) -> Iterator[SimpleNamespace]:
    """Counts the text encoder's calls."""
    with breaking(modules.text_encoder, after=1000) as seen:
        yield seen


def remembering(modules: Components, **options: int) -> PromptCache:
    encode = PromptEncoder(modules)
    return PromptCache(lambda prompt: {"text": encode(prompt)}, **options)


@pytest.fixture(scope="module")
def front(modules: Components) -> PromptTokenizer:
    return prompt_tokenizer(modules)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_embeddings_equal_the_stock_pipelines(modules: Components, prompt: str) -> None:
    with torch.no_grad():
        expected = shared_pipeline().encode_prompt(prompt, do_classifier_free_guidance=False)[0]

    embedding = PromptEncoder(modules)(prompt)

    assert embedding.shape == (1, 256, 64)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=0)


def test_a_prompt_is_encoded_once(modules: Components, encodings: SimpleNamespace) -> None:
    encode = remembering(modules)

    first, other, again = encode("a cat"), encode("ugly"), encode("a cat")

    assert encodings.calls == 2
    assert again is first
    assert not torch.equal(other["text"], first["text"])


def test_the_prompt_that_was_used_longest_ago_is_forgotten_first(
    modules: Components, encodings: SimpleNamespace
) -> None:
    encode = remembering(modules, capacity=2)
    for prompt in ("ugly", "first", "ugly", "second"):
        encode(prompt)
    assert encodings.calls == 3

    encode("ugly")
    assert encodings.calls == 3
    encode("first")
    assert encodings.calls == 4


def test_a_failed_encoding_is_not_remembered(modules: Components) -> None:
    encode = remembering(modules)
    with (
        breaking(modules.text_encoder.get_submodule("model.layers.1"), error=RuntimeError("broken")),
        pytest.raises(RuntimeError),
    ):
        encode("a cat")

    assert torch.equal(encode("a cat")["text"], PromptEncoder(modules)("a cat"))


def test_embeddings_take_the_transformers_dtype() -> None:
    modules = make_modules()
    modules.transformer.to(torch.bfloat16)

    assert PromptEncoder(modules)("a cat").dtype == torch.bfloat16


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_front_counts_the_models_tokens(modules: Components, front: PromptTokenizer, prompt: str) -> None:
    conversation: Any = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    whole: Any = modules.tokenizer.apply_chat_template(conversation, add_generation_prompt=True)

    counted = Tokenizer.from_str(front.tokenizer_json).encode(front.prefix + prompt + front.suffix)

    assert counted.ids == whole["input_ids"]


def test_the_front_counts_beyond_what_the_model_reads(front: PromptTokenizer) -> None:
    tokenizer = Tokenizer.from_str(front.tokenizer_json)

    assert front.max_tokens == 256
    assert len(tokenizer.encode(front.prefix + "snow " * 200 + front.suffix)) > 256


def test_the_models_own_tokenizer_keeps_its_settings(modules: Components) -> None:
    PromptEncoder(modules)("a cat")
    before = modules.tokenizer.backend_tokenizer.to_str()
    prompt_tokenizer(modules)

    assert modules.tokenizer.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("template", ["{{ messages[0].content[0].text | trim }}", "fixed", "{{ messages }}" * 2])
def test_a_template_that_changes_the_prompt_is_refused(template: str) -> None:
    modules = make_modules()
    modules.tokenizer.chat_template = template

    with pytest.raises(UnsupportedModel, match="builtin:tiny: the tokenizer's chat template"):
        prompt_tokenizer(modules)
