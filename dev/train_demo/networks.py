"""The demo model's networks: the published classes, small, and the tokenizer that fits them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
from diffusers.models.attention_processor import Attention
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer, Qwen2VLConfig

from easyanim_server.engine.families.easyanimate_v51 import builtin, positions
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder


@dataclass(frozen=True)
class Sizes:
    """How large the networks are; the defaults are the demo model's, of 11.7 million weights in all."""

    vae: dict[str, Any] = field(
        default_factory=lambda: {
            "block_out_channels": [24, 48, 80, 96],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "latent_channels": builtin.LATENT_CHANNELS,
            "scaling_factor": 1.0,  # latents are given unit variance by `vae_forward.normalise`
        }
    )
    transformer: dict[str, Any] = field(
        default_factory=lambda: {
            "in_channels": 2 * builtin.LATENT_CHANNELS + 1,
            "out_channels": builtin.LATENT_CHANNELS,
            "patch_size": 2,
            "add_norm_text_encoder": True,
            "num_attention_heads": 4,
            "attention_head_dim": 64,
            "time_embed_dim": 32,
            "text_embed_dim": 128,
            "num_layers": 6,
            "mmdit_layers": 1,
        }
    )
    text: dict[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 128,
            "num_hidden_layers": 3,  # the last is never run
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 256,
            "vocab_size": 896,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "bos_token_id": 0,
            "eos_token_id": 2,
        }
    )

    @classmethod
    def smoke(cls) -> Sizes:
        """Networks that a CPU trains for some steps in seconds."""
        sizes = cls()
        sizes.vae.update(block_out_channels=[8, 8, 16, 16], norm_num_groups=4)
        sizes.transformer.update(
            num_attention_heads=2, attention_head_dim=16, num_layers=2, text_embed_dim=32, time_embed_dim=16
        )
        sizes.text.update(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=48)
        sizes.text["rope_parameters"].update(mrope_section=[2, 3, 3])
        return sizes


def make_vae(sizes: Sizes) -> AutoencoderKLMagvit:
    """Make the VAE for training, its residual branches silent at first."""
    vae = AutoencoderKLMagvit(**sizes.vae)
    vae.register_to_config(cache_mag_vae=True)  # which the stock pipeline reads and the class does not know
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    # Latents are not drawn from a distribution in training, so its variance is a small number.
    channels = sizes.vae["latent_channels"]
    nn.init.zeros_(vae.quant_conv.weight[channels:])
    nn.init.constant_(vae.quant_conv.bias[channels:], -6.0)
    return vae


def make_transformer(sizes: Sizes) -> EasyAnimateTransformer3DModel:
    """Make the transformer for training: as it is served, and with gates that are shut at first."""
    transformer = EasyAnimateTransformer3DModel(**sizes.transformer)
    # Its stock module's positions are trained with, and the checkpoint is to be served with the same.
    transformer.register_to_config(**{positions.KEY: "diffusers"})
    for block in transformer.transformer_blocks:
        block.attn1.set_processor(OriginalAttention())
        for norm in (block.norm1, block.norm2):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    transformer.rope_embedding = KeptRope(transformer.rope_embedding)
    return transformer


def make_text_encoder(sizes: Sizes) -> TrimmedTextEncoder:
    """Make the part of the text encoder that is run."""
    return TrimmedTextEncoder(text_config(sizes))


def text_config(sizes: Sizes) -> Qwen2VLConfig:
    """The text encoder's whole configuration, with a vision tower in name only: no weights of it are kept."""
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": sizes.text["hidden_size"], "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLConfig(
        text_config=sizes.text,
        vision_config=vision,
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=6,
        video_token_id=7,
    )


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """Learn byte pairs from `texts`, all of one conversation template; any other text falls back to bytes.

    Args:
        texts: Prompts.
        vocabulary: Tokens in all.
    """
    stock = builtin.tokenizer()
    special = [str(token) for _, token in sorted(stock.added_tokens_decoder.items())]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = stock.backend_tokenizer.pre_tokenizer
    learner.normalizer = stock.backend_tokenizer.normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    frame = "system\nYou are a helpful assistant.\nuser\nassistant\n"
    learner.train_from_iterator([*texts, *[frame] * 2000], trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges: list[Any] = [tuple(pair) for pair in learnt["merges"]]
    made = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=special,
        padding_side="right",
        model_max_length=32768,
    )
    made.chat_template = stock.chat_template
    return made


class OriginalAttention:
    """Attention as the network was trained: blocks without weights for text project the text half as well.

    Source: EasyAnimate ``easyanimate/models/processor.py``, c2a70d1.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend over text and video; (batch, tokens, dim) each, and returned so."""
        texts = encoder_hidden_states.shape[1]
        if attn.add_q_proj is None:
            both = torch.cat((encoder_hidden_states, hidden_states), dim=1)
            query, key, value = (self._heads(attn, layer(both)) for layer in (attn.to_q, attn.to_k, attn.to_v))
            query, key = attn.norm_q(query), attn.norm_k(key)
        else:
            query, key, value = (
                torch.cat((self._heads(attn, of_text), self._heads(attn, of_video)), dim=2)
                if norms is None
                else torch.cat((norms[0](self._heads(attn, of_text)), norms[1](self._heads(attn, of_video))), dim=2)
                for of_text, of_video, norms in (
                    (
                        attn.add_q_proj(encoder_hidden_states),
                        attn.to_q(hidden_states),
                        (attn.norm_added_q, attn.norm_q),
                    ),
                    (
                        attn.add_k_proj(encoder_hidden_states),
                        attn.to_k(hidden_states),
                        (attn.norm_added_k, attn.norm_k),
                    ),
                    (attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states), None),
                )
            )
        assert image_rotary_emb is not None
        cos, sin = image_rotary_emb
        query, key = (
            torch.cat((x[:, :, :texts], _rotate(x[:, :, texts:], cos, sin).to(x.dtype)), dim=2) for x in (query, key)
        )
        y = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        y = y.transpose(1, 2).flatten(2, 3)
        if attn.add_q_proj is None:
            y = attn.to_out[0](y)
            return y[:, texts:], y[:, :texts]
        return attn.to_out[0](y[:, texts:]), attn.to_add_out(y[:, :texts])

    @staticmethod
    def _heads(attn: Attention, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (attn.heads, -1)).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels of (batch, heads, tokens, channels)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin


class KeptRope(nn.Module):
    """Rotary angles, computed once per shape and kept on the device."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self._stock = stock
        self._kept: dict[tuple[torch.Size, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for latents of this shape, (video tokens, head channels) each."""
        key = (latents.shape[2:], latents.device)
        if key not in self._kept:
            cos, sin = self._stock(torch.empty(1, 1, *latents.shape[2:], device="meta"))
            self._kept[key] = (cos.to(latents.device), sin.to(latents.device))
        return self._kept[key]
