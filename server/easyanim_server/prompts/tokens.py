"""Reads prompts in the front, with the worker's own tokenizer and without its libraries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenizers import Tokenizer

from easyanim_server.domain.errors import NotReady
from easyanim_server.domain.events import PromptWarning
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.prompts.lint import lint, read_by_one, too_long


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How one tokenizer counts a prompt."""

    name: str
    """See `TokenizerSpec.name`."""
    tokens: int
    """Of the prompt within its template, before any cut."""
    max_tokens: int
    """What its encoder reads; the rest is cut."""


@dataclass(frozen=True, slots=True)
class PromptReading:
    """How the model would read a prompt."""

    tokens: int
    """Of the prompt within its chat template, before any cut."""
    max_tokens: int
    """What the model reads; the rest is cut."""
    warnings: tuple[PromptWarning, ...]
    counts: tuple[TokenCount, ...] = ()
    """Of each tokenizer of the model, the one that reads most first: its are the numbers above."""

    @property
    def truncated(self) -> bool:
        """Whether the model will not read all of it."""
        return self.tokens > self.max_tokens


class TokenCounter:
    """A parsed tokenizer with its chat template. Parsing a published one takes a second: make it on a thread."""

    def __init__(self, source: PromptTokenizer) -> None:
        self._source = source
        # One text has nothing to share out, and a pool of threads would have to be left out of every fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = Tokenizer.from_str(source.tokenizer_json)
        self._others = [TokenCounter(other) for other in source.others]

    def read(self, prompt: str, negative_prompt: str) -> PromptReading:
        """Count the tokens of `prompt` and collect what is to be said of both; an empty negative prompt means none."""
        source = self._source
        tokens, unread = self._count(prompt)
        counts = [TokenCount(source.name, tokens, source.max_tokens)]
        warnings = lint(prompt, negative_prompt)
        for name, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
            count, rest = (tokens, unread) if name == "prompt" else self._count(text)
            if count > source.max_tokens:
                warnings.append(too_long(name, count, source.max_tokens, rest))
            for other in self._others:
                its, beyond = other._count(text)
                if name == "prompt":
                    counts.append(TokenCount(other._source.name, its, other._source.max_tokens))
                if its > other._source.max_tokens:
                    which = (other._source.name, source.name)
                    warnings.append(read_by_one(name, its, other._source.max_tokens, beyond, *which))
        return PromptReading(tokens, source.max_tokens, tuple(warnings), tuple(counts))

    def _count(self, prompt: str) -> tuple[int, str]:
        """Tokens of a prompt within its chat template, and the part of it that the model does not read."""
        prefix, limit = self._source.prefix, self._source.max_tokens
        # As a batch, in which the interpreter's lock is given up; `encode` would hold it all the while.
        text = prefix + prompt + self._source.suffix
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
        tokens = len(encoding)
        cut = limit - self._source.kept  # the first token that is not read
        read_chars = encoding.offsets[cut][0] - len(prefix) if tokens > limit else len(prompt)
        return tokens, prompt[max(read_chars, 0) :]


class PromptReader:
    """Reads prompts on threads, since one of them takes milliseconds and callers come by the dozen.

    A thread for prompts of jobs and one for those that are only asked about: a job never waits for a question. A caller
    who leaves takes its prompt out of the line.
    """

    def __init__(self, not_ready: Callable[[], NotReady]) -> None:
        """Prepare; nothing is read before `use`.

        Args:
            not_ready: Says why nothing can be read yet.
        """
        self._not_ready = not_ready
        self._counter: TokenCounter | None = None
        self._of_jobs, self._of_questions = (ThreadPoolExecutor(1, f"prompts-{name}") for name in ("jobs", "questions"))

    async def use(self, source: PromptTokenizer) -> None:
        """Read with this tokenizer from now on."""
        self._counter = await asyncio.to_thread(TokenCounter, source)

    async def read(self, prompt: str, negative_prompt: str) -> PromptReading:
        """How a prompt would be read; the negative one is empty where there is none.

        Raises:
            NotReady: the model was never ready so far.
        """
        return await self._read(self._of_questions, prompt, negative_prompt)

    async def read_for(self, job: Job) -> PromptReading:
        """How the prompts of a job will be read; raises as `read`."""
        negative = job.negative_prompt if job.guidance > 1 else ""  # it has no effect without
        return await self._read(self._of_jobs, job.prompt, negative)

    async def _read(self, threads: ThreadPoolExecutor, prompt: str, negative_prompt: str) -> PromptReading:
        if self._counter is None:
            raise self._not_ready()
        return await asyncio.get_running_loop().run_in_executor(threads, self._counter.read, prompt, negative_prompt)
