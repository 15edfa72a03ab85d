"""Prompts to embeddings, and what the front needs to count their tokens."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.engine.families.easyanimate_v51.components import Components

MAX_TOKENS = EASYANIMATE_V51.tokenizers[0].max_tokens
"""Text tokens of every prompt, chat template and padding included: the model was trained with so many."""

Tokens = tuple[Tensor, Tensor]
"""Ids and attention mask, (1, 256) int64 each, on the host."""


class PromptEncoder:
    """Qwen2-VL's embeddings of prompts.

    Args:
        modules: Tokenizer and text encoder are used.
    """

    def __init__(self, modules: Components) -> None:
        self._tokenizer = modules.tokenizer
        self._text_encoder = modules.text_encoder
        self._device = modules.device
        self._dtype = modules.dtype

    def tokenize(self, prompt: str) -> Tokens:
        """Put a prompt, which may be empty, into the template and make it `MAX_TOKENS` long; what is beyond is cut."""
        encoded = self._tokenizer(
            text=[in_template(self._tokenizer, prompt)],
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_attention_mask=True,
            padding_side="right",
            return_tensors="pt",
        )
        return encoded.input_ids, encoded.attention_mask

    @torch.no_grad()
    def embed(self, tokens: Tokens) -> Tensor:
        """Embed a prompt whose text encoder is on the device.

        Returns:
            (1, 256, hidden) in the transformer's dtype, on its device.
        """
        ids, mask = tokens
        hidden: Tensor = self._text_encoder(ids.to(self._device), mask.to(self._device))
        return hidden.to(self._device, self._dtype)

    def __call__(self, prompt: str) -> Tensor:
        """Tokenize and embed one prompt."""
        return self.embed(self.tokenize(prompt))


def prompt_tokenizer(modules: Components) -> PromptTokenizer:
    """Take out of the tokenizer what counts a prompt's tokens without transformers or torch.

    ``len(encode(prefix + prompt + suffix))`` then is the number of tokens before any cut.

    Raises:
        UnsupportedModel: the chat template does not put the prompt between two fixed texts.
    """
    sentinel = " \N{REPLACEMENT CHARACTER}prompt\N{REPLACEMENT CHARACTER} "  # blanks, which templates may strip
    parts = in_template(modules.tokenizer, sentinel).split(sentinel)
    if len(parts) != 2:
        raise UnsupportedModel(f"{modules.name}: the tokenizer's chat template changes or repeats the prompt")
    prefix, suffix = parts
    tokenizer = Tokenizer.from_str(modules.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PromptTokenizer(tokenizer.to_str(), prefix, suffix, MAX_TOKENS)


def in_template(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The conversation whose hidden states are the prompt's embedding: the user says it, the assistant is next."""
    conversation: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
