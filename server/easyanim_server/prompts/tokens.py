"""Reads prompts in the front, with the worker's own tokenizer and without its libraries."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.prompts.lint import PromptWarning, lint, too_long


@dataclass(frozen=True, slots=True)
class PromptReading:
    """How the model would read a prompt."""

    tokens: int
    """Of the prompt within its chat template, before any cut."""
    max_tokens: int
    """What the model reads; the rest is cut."""
    warnings: tuple[PromptWarning, ...]

    @property
    def truncated(self) -> bool:
        """Whether the model will not read all of it."""
        return self.tokens > self.max_tokens


class TokenCounter:
    """A parsed tokenizer with its chat template. Parsing a published one takes a second: make it on a thread."""

    def __init__(self, source: PromptTokenizer) -> None:
        self._source = source
        self._tokenizer = Tokenizer.from_str(source.tokenizer_json)

    def read(self, prompt: str, negative_prompt: str) -> PromptReading:
        """Count the tokens of `prompt` and collect what is to be said of both; an empty negative prompt means none."""
        tokens, unread = self._count(prompt)
        warnings = lint(prompt, negative_prompt)
        for name, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
            count, rest = (tokens, unread) if name == "prompt" else self._count(text)
            if count > self._source.max_tokens:
                warnings.append(too_long(name, count, self._source.max_tokens, rest))
        return PromptReading(tokens, self._source.max_tokens, tuple(warnings))

    def _count(self, prompt: str) -> tuple[int, str]:
        """Tokens of a prompt within its chat template, and the part of it that the model does not read."""
        prefix, limit = self._source.prefix, self._source.max_tokens
        encoding = self._tokenizer.encode(prefix + prompt + self._source.suffix, add_special_tokens=False)
        tokens = len(encoding.ids)
        read_chars = encoding.offsets[limit][0] - len(prefix) if tokens > limit else len(prompt)
        return tokens, prompt[max(read_chars, 0) :]
