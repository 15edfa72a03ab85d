"""EasyAnimate V5's prompts: read by BERT and by T5, whose embeddings the transformer joins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertTokenizer

from easyanim_server.catalog import EASYANIMATE_V5
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import PromptTokenizer
from easyanim_server.engine.families.easyanimate_v5 import spiece
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v51.text import TEXT, TEXT_T5
from easyanim_server.engine.families.runtime import Component, Condition, Need

MOST_TOKENS = 256
"""Of either encoder, whatever its tokenizer allows."""

BERT, T5 = "text", "text_2"
"""Names of components."""

FAST, PIECES, CONFIG = "tokenizer.json", "spiece.model", "tokenizer_config.json"
"""Files of a tokenizer."""


@dataclass(frozen=True, eq=False)
class PromptIds:
    """One tokenizer with the number of tokens that its encoder reads."""

    tokenizer: Tokenizer
    """Adds its own special tokens; neither cuts nor pads."""
    limit: int
    """Tokens of every prompt, special ones and padding included."""
    prefix: str
    """Special token before the prompt, as text; empty where there is none."""
    suffix: str
    """Special token behind the prompt."""
    padding: str
    """Special token that prompts are filled up with."""

    @classmethod
    def bert(cls, folder: Path) -> PromptIds:
        """Read BERT's tokenizer, of ``vocab.txt`` or ``tokenizer.json``.

        Raises:
            UnsupportedModel: the files are damaged, or no tokenizer of BERT.
        """
        try:
            stock = BertTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UnsupportedModel(f"{folder} has no tokenizer of BERT: {error}") from error
        return cls(
            tokenizer=Tokenizer.from_str(stock.backend_tokenizer.to_str()),
            limit=_limit(folder),
            prefix=str(stock.cls_token),
            suffix=str(stock.sep_token),
            padding=str(stock.pad_token),
        )

    @classmethod
    def t5(cls, folder: Path) -> PromptIds:
        """Read T5's tokenizer, of ``tokenizer.json`` or ``spiece.model``.

        Raises:
            UnsupportedModel: the files are damaged, or no tokenizer of T5.
        """
        if (folder / FAST).is_file():
            try:
                tokenizer = Tokenizer.from_file(str(folder / FAST))
            except Exception as error:  # it has no type of its own
                raise UnsupportedModel(f"{folder / FAST} is no tokenizer, or is damaged: {error}") from error
            tokenizer.no_truncation()
            tokenizer.no_padding()
        elif (folder / PIECES).is_file():
            tokenizer = spiece.tokenizer(folder / PIECES)
        else:
            raise UnsupportedModel(f"{folder} has neither {PIECES} nor {FAST}")
        return cls(tokenizer, _limit(folder), "", spiece.END, "<pad>")

    def read(self, prompt: str) -> Tensor:
        """Ids of a prompt, (1, limit) int64: cut before its last special token, or filled up behind it."""
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > self.limit:
            ids = [*ids[: self.limit - 1], ids[-1]]
        return torch.tensor([ids + [self._padding_id] * (self.limit - len(ids))])

    def counter(self, name: str) -> PromptTokenizer:
        """What the front counts tokens with."""
        return PromptTokenizer(self.tokenizer.to_str(), self.prefix, self.suffix, self.limit, kept=1, name=name)

    @property
    def _padding_id(self) -> int:
        found: int | None = self.tokenizer.token_to_id(self.padding)
        return found or 0


class BertT5Text:
    """Implements `TextSide` with both encoders, which read ids alone: padding is attended to, as it was in training.

    Args:
        bert: Encoder.
        t5: Encoder.
        bert_ids: Its tokenizer.
        t5_ids: Its tokenizer.
        device: Where the encoders compute.
        dtype: Of embeddings.
    """

    def __init__(
        self,
        bert: BertEncoder,
        t5: T5Encoder,
        bert_ids: PromptIds,
        t5_ids: PromptIds,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._bert, self._t5 = bert, t5
        self._bert_ids, self._t5_ids = bert_ids, t5_ids
        self._device, self._dtype = device, dtype
        self.tokens = (bert_ids.limit, t5_ids.limit)
        bert_spec, t5_spec = EASYANIMATE_V5.tokenizers
        self.tokenizer = replace(t5_ids.counter(t5_spec.name), others=(bert_ids.counter(bert_spec.name),))

    @property
    def components(self) -> Mapping[str, Component]:
        """See `TextSide.components`."""
        layers = [(layer,) for layer in self._bert.model.encoder.layer]
        blocks = [(block,) for block in self._t5.encoder.block]
        return {
            BERT: Component(self._bert, layers, calls_units=True, table=self._bert.model.embeddings.word_embeddings),
            T5: Component(self._t5, blocks, calls_units=True, table=self._t5.encoder.embed_tokens),
        }

    @torch.no_grad()
    def encode(self, prompt: str, need: Need) -> Condition:
        """Embed one prompt as ``text``, (1, 77, hidden), and ``text_t5``, (1, 256, hidden)."""
        bert_ids, t5_ids = self._bert_ids.read(prompt), self._t5_ids.read(prompt)
        need(BERT)
        text = self._bert(bert_ids.to(self._device))
        need(T5)
        text_t5 = self._t5(t5_ids.to(self._device))
        return {TEXT: text.to(self._device, self._dtype), TEXT_T5: text_t5.to(self._device, self._dtype)}


def _limit(folder: Path) -> int:
    """Tokens of every prompt by a tokenizer's configuration."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
        return int(min(config.get("model_max_length", MOST_TOKENS), MOST_TOKENS))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"{folder / CONFIG} has no number as model_max_length: {error}") from error
