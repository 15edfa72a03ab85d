"""Prompts to embeddings, remembered by their text; and what the front needs to count their tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.finite import require_finite

MAX_TOKENS = EASYANIMATE_V51.tokenizers[0].max_tokens
"""Text tokens of every prompt, chat template and padding included: the model was trained with so many."""


class PromptEncoder:
    """Qwen2-VL's embeddings of prompts; the negative prompt, which seldom changes, is computed once.

    Args:
        modules: Tokenizer and text encoder are used.
        capacity: Prompts that are remembered, the most recently used ones; each takes 1.8 MB in bfloat16.
        ready: Called before the text encoder is used, to have its weights there.
    """

    def __init__(self, modules: Components, capacity: int = 64, ready: Callable[[], None] = lambda: None) -> None:
        self._tokenizer = modules.tokenizer
        self._text_encoder = modules.text_encoder
        self._device = modules.device
        self._dtype = modules.dtype
        self._capacity = capacity
        self._ready = ready
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self.hits = self.misses = 0
        """How often a prompt was remembered, and was not."""

    def __call__(self, prompt: str) -> Tensor:
        """Embed one prompt; what is beyond `MAX_TOKENS` is cut.

        Args:
            prompt: May be empty, as a negative prompt can be.

        Returns:
            (1, 256, hidden) in the transformer's dtype, on its device; shared between callers, so not to be written to.

        Raises:
            NonFinite: the text encoder gives no numbers for it.
        """
        if prompt in self._remembered:
            self.hits += 1
        else:
            self.misses += 1
            embedding = self._encode(prompt)
            require_finite(embedding, "the prompt's embedding")  # before it is remembered
            self._remembered[prompt] = embedding
            if len(self._remembered) > self._capacity:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(prompt)
        return self._remembered[prompt]

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        tokens = self._tokenizer(
            text=[_in_template(self._tokenizer, prompt)],
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_attention_mask=True,
            padding_side="right",
            return_tensors="pt",
        )
        self._ready()
        hidden: Tensor = self._text_encoder(tokens.input_ids.to(self._device), tokens.attention_mask.to(self._device))
        return hidden.to(self._device, self._dtype)


def prompt_tokenizer(modules: Components) -> PromptTokenizer:
    """Take out of the tokenizer what counts a prompt's tokens without transformers or torch.

    ``len(encode(prefix + prompt + suffix))`` then is the number of tokens before any cut.

    Raises:
        UnsupportedModel: the chat template does not put the prompt between two fixed texts.
    """
    sentinel = " \N{REPLACEMENT CHARACTER}prompt\N{REPLACEMENT CHARACTER} "  # blanks, which templates may strip
    parts = _in_template(modules.tokenizer, sentinel).split(sentinel)
    if len(parts) != 2:
        raise UnsupportedModel(f"{modules.name}: the tokenizer's chat template changes or repeats the prompt")
    prefix, suffix = parts
    tokenizer = Tokenizer.from_str(modules.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PromptTokenizer(tokenizer.to_str(), prefix, suffix, MAX_TOKENS)


def _in_template(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The conversation whose hidden states are the prompt's embedding: the user says it, the assistant is next."""
    conversation: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
