"""The part of Qwen2-VL that EasyAnimate reads prompts with: the language model up to its last layer but one."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLTextConfig, Qwen2VLTextModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding

_LANGUAGE_MODEL = re.compile(r"model\.(?:language_model\.)?((?:embed_tokens|layers\.(\d+)|norm)\..+)")
"""transformers 4 writes ``model.layers...``, its successor builds ``model.language_model.layers...``."""


class TrimmedTextEncoder(nn.Module):
    """Qwen2-VL's language model less its last layer and final norm, without vision tower and LM head.

    Its output is what the stock `Qwen2VLForConditionalGeneration` gives as ``hidden_states[-2]``, bit by bit, also
    at padded positions, which the video transformer attends to as it was trained to.

    Args:
        config: The whole model's configuration, as a checkpoint has it.
    """

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        text_config = copy.deepcopy(config.text_config)
        assert isinstance(text_config, Qwen2VLTextConfig)  # its constructor has made one of whatever it was given
        text_config.num_hidden_layers -= 1
        text_config.layer_types = (text_config.layer_types or [])[: text_config.num_hidden_layers]
        self.model = Qwen2VLTextModel(text_config)
        self.model.norm = nn.Identity()  # type: ignore[assignment]

    @classmethod
    def on_meta(cls, config: Qwen2VLConfig) -> TrimmedTextEncoder:
        """Build without weights: parameters on the meta device, the rotary frequencies on the CPU in float32."""
        with torch.device("meta"):
            encoder = cls(config)
        # Checkpoints do not hold the frequencies, so they are computed for real.
        encoder.model.rotary_emb = Qwen2VLRotaryEmbedding(encoder.model.config)
        return encoder

    @classmethod
    def of(cls, whole: Qwen2VLForConditionalGeneration) -> TrimmedTextEncoder:
        """Trim a loaded model; the weights are shared with it."""
        encoder = cls.on_meta(whole.config)
        named = ((encoder.own_name(name), tensor) for name, tensor in whole.state_dict().items())
        encoder.load_state_dict({name: tensor for name, tensor in named if name is not None}, assign=True)
        return encoder.to(whole.device).eval().requires_grad_(False)

    def own_name(self, stored: str) -> str | None:
        """Translate a name from a checkpoint of the whole model.

        Returns:
            The name here, None for what is trimmed, and `stored` itself where it is of no known kind.
        """
        if stored.startswith(("visual.", "model.visual.", "lm_head.")):
            return None
        match = _LANGUAGE_MODEL.fullmatch(stored)
        if match is None:
            return stored
        name, layer = match.groups()
        trimmed = name.startswith("norm.") or layer == str(self.model.config.num_hidden_layers)
        return None if trimmed else f"model.{name}"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode token ids padded on the right.

        Positions count from 0 through the padding, alike for M-RoPE's three axes: that is what the stock model
        does when it is given text alone (transformers 5; releases 4.48 to 4.57 gave all padding position 1).

        Args:
            input_ids: (batch, tokens), int64.
            attention_mask: (batch, tokens), int64; 1 for text, 0 for padding.

        Returns:
            (batch, tokens, hidden) in the weights' dtype.
        """
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden
