"""Prompts to embeddings, and what the front needs to count their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.runtime import Component, Condition, Need

MAX_TOKENS = EASYANIMATE_V51.tokenizers[0].max_tokens
"""Text tokens of every prompt, chat template and padding included: the model was trained with so many."""

TEXT, TEXT_T5 = "text", "text_t5"
"""Names of conditions, (batch, tokens, hidden) each; only some networks have the second."""

TEXT_ENCODER = "text"
"""Name of the component."""

Tokens = tuple[Tensor, Tensor]
"""Ids and attention mask, (1, 256) int64 each, on the host."""


class TextSide(Protocol):
    """How one model reads prompts."""

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""

    @property
    def tokens(self) -> Sequence[int]:
        """Of each condition, in the order in which the denoiser joins them."""

    @property
    def components(self) -> Mapping[str, Component]:
        """The text encoders by name."""

    def encode(self, prompt: str, need: Need) -> Condition:
        """See `Pipeline.encode_text`."""


class QwenModules(Protocol):
    """What `PromptEncoder` needs of a loaded model."""

    @property
    def name(self) -> str:
        """As the operator named it."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With the chat template; pads on the right."""

    @property
    def text_encoder(self) -> nn.Module:
        """A `TrimmedTextEncoder`."""

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""

    @property
    def dtype(self) -> torch.dtype:
        """Compute type of the transformer."""


class PromptEncoder:
    """Qwen2-VL's embeddings of prompts.

    Args:
        modules: Tokenizer and text encoder are used.
    """

    def __init__(self, modules: QwenModules) -> None:
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


class QwenText:
    """Implements `TextSide` with Qwen2-VL.

    Args:
        modules: Tokenizer and text encoder are used.

    Raises:
        UnsupportedModel: as `prompt_tokenizer`.
    """

    tokens = (MAX_TOKENS,)

    def __init__(self, modules: QwenModules) -> None:
        self.tokenizer = prompt_tokenizer(modules)
        self._prompts = PromptEncoder(modules)
        self._text_encoder = modules.text_encoder

    @property
    def components(self) -> Mapping[str, Component]:
        """See `TextSide.components`."""
        text = self._text_encoder
        assert isinstance(text, TrimmedTextEncoder)
        units = [(layer,) for layer in text.model.layers]
        return {TEXT_ENCODER: Component(text, units, calls_units=True, table=text.model.embed_tokens)}

    def encode(self, prompt: str, need: Need) -> Condition:
        """Embed one prompt as ``text``, (1, 256, hidden)."""
        tokens = self._prompts.tokenize(prompt)
        need(TEXT_ENCODER)
        return {TEXT: self._prompts.embed(tokens)}


def prompt_tokenizer(modules: QwenModules) -> PromptTokenizer:
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
