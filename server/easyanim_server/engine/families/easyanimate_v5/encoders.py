"""The networks that EasyAnimate V5 reads prompts with: BERT, and the encoder of (m)T5."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config
from transformers.models.t5.modeling_t5 import T5Stack


class BertEncoder(nn.Module):
    """BERT without its pooler, which nothing reads.

    Args:
        config: As a checkpoint has it.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]

    @classmethod
    def on_meta(cls, config: BertConfig) -> BertEncoder:
        """Build without weights: parameters on the meta device, the numbers of positions on the CPU."""
        with torch.device("meta"):
            encoder = cls(config)
        # Checkpoints do not hold them, so they are made for real.
        places = torch.arange(config.max_position_embeddings)[None]
        encoder.model.embeddings.register_buffer("position_ids", places, persistent=False)
        encoder.model.embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
        return encoder

    def own_name(self, stored: str) -> str | None:
        """Translate a name from a checkpoint; None for what is not needed, `stored` where it is of no known kind."""
        if stored.startswith("pooler.") or stored == "embeddings.position_ids":
            return None
        return f"model.{stored}" if stored.startswith(("embeddings.", "encoder.")) else stored

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids, (batch, tokens) int64, to (batch, tokens, hidden); padding is attended to."""
        hidden: Tensor = self.model(input_ids=input_ids).last_hidden_state
        return hidden


class T5Encoder(nn.Module):
    """T5's encoder.

    Args:
        config: As a checkpoint has it.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        own = copy.deepcopy(config)
        own.use_cache = own.is_decoder = own.is_encoder_decoder = False
        self.encoder = T5Stack(own)  # type: ignore[no-untyped-call]

    @classmethod
    def on_meta(cls, config: T5Config) -> T5Encoder:
        """Build without weights: parameters on the meta device."""
        with torch.device("meta"):
            return cls(config)

    def own_name(self, stored: str) -> str | None:
        """Translate a name from a checkpoint; None for what is not needed, `stored` where it is of no known kind."""
        if stored == "shared.weight":
            return "encoder.embed_tokens.weight"
        if stored == "encoder.embed_tokens.weight" or stored.startswith(("decoder.", "lm_head.")):
            return None  # the embeddings once more, and what only writes
        return stored

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids, (batch, tokens) int64, to (batch, tokens, hidden); padding is attended to."""
        hidden: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return hidden
