"""Counts a prompt's tokens in the front, with the worker's own tokenizer and without its libraries."""

from __future__ import annotations

from tokenizers import Tokenizer

from easyanim_server.job import PromptTokenizer


class TokenCounter:
    """A parsed tokenizer with its chat template. Parsing a published one takes a second: make it on a thread."""

    def __init__(self, source: PromptTokenizer) -> None:
        self._source = source
        self._tokenizer = Tokenizer.from_str(source.tokenizer_json)

    def count(self, prompt: str) -> tuple[int, bool]:
        """Tokens of `prompt` within its chat template, and whether the model will not read them all."""
        text = self._source.prefix + prompt + self._source.suffix
        tokens = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return tokens, tokens > self._source.max_tokens
