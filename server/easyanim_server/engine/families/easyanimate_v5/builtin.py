"""EasyAnimate V5's published shapes with random weights, to measure speed and memory without a download."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import DDIMScheduler, EasyAnimateTransformer3DModel
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram, WordPiece
from transformers import BertConfig, T5Config

from easyanim_server import catalog
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.encoders import BertEncoder, T5Encoder
from easyanim_server.engine.families.easyanimate_v5.spiece import END
from easyanim_server.engine.families.easyanimate_v5.text import PromptIds
from easyanim_server.engine.families.easyanimate_v51 import vae_attention
from easyanim_server.engine.families.easyanimate_v51.builtin import (
    PUBLISHED_TRANSFORMERS,
    PUBLISHED_VAE,
    SyntheticSize,
    allocate,
    draw_weights,
    finish,
    published_vae,
)

PUBLISHED_BERT: dict[str, Any] = {
    "vocab_size": 47020,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
"""Configuration of the BERT that V5 has of HunyuanDiT: 350 million parameters."""

PUBLISHED_T5: dict[str, Any] = {
    "vocab_size": 250112,
    "d_model": 2048,
    "d_ff": 5120,
    "d_kv": 64,
    "num_heads": 32,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
"""Configuration of mT5-XL's encoder: 1.7 billion parameters."""

PUBLISHED_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""Configuration of V5's scheduler."""

SYNTHETIC: dict[str, SyntheticSize] = {"synthetic:v5-7b": "7b", "synthetic:v5-12b": "12b"}
"""Models of published shape that are made here, by name."""

BERT_TOKENS, T5_TOKENS = (spec.max_tokens for spec in catalog.EASYANIMATE_V5.tokenizers)


def transformer_config(size: SyntheticSize) -> dict[str, Any]:
    """Of a published V5: that of V5.1, but for the text that it reads."""
    text = {"text_embed_dim": PUBLISHED_BERT["hidden_size"], "text_embed_dim_t5": PUBLISHED_T5["d_model"]}
    return {**PUBLISHED_TRANSFORMERS[size], **text, "add_norm_text_encoder": False, "enable_text_attention_mask": False}


def synthetic(
    size: SyntheticSize, *, device: torch.device, dtype: torch.dtype, seed: int = 0, on_host: bool = False
) -> ComponentsV5:
    """Make a V5 of published shape with random weights; see `easyanimate_v51.builtin.synthetic`.

    Args:
        size: ``7b`` or ``12b``.
        device: Where the networks compute, and weights are drawn.
        dtype: Of the weights.
        seed: Of the weights. The global random state is neither used nor changed.
        on_host: Whether each weight goes to host memory as soon as it is drawn.
    """
    modules = synthetic_outline(size)
    generator = torch.Generator(device).manual_seed(seed)
    home = torch.device("cpu") if on_host else device
    for network in (modules.transformer, modules.vae, modules.text_encoder, modules.text_encoder_2):
        allocate(network, home, dtype)
        draw_weights(network, generator, spread=0.0)
        finish(network, home, dtype)
    modules.compute = device
    return modules


def synthetic_outline(size: SyntheticSize) -> ComponentsV5:
    """Make a V5 of published shape on the meta device, without weights."""
    with torch.device("meta"):
        transformer = EasyAnimateTransformer3DModel(**transformer_config(size))
        vae = published_vae(**PUBLISHED_VAE)
    vae_attention.add_attention(vae)
    return ComponentsV5(
        name=f"synthetic:v5-{size}",
        transformer=transformer,
        vae=vae,
        text_encoder=BertEncoder.on_meta(BertConfig(**PUBLISHED_BERT)),
        text_encoder_2=T5Encoder.on_meta(T5Config(**PUBLISHED_T5)),
        tokenizer=bert_ids(),
        tokenizer_2=t5_ids(),
        scheduler=DDIMScheduler(**PUBLISHED_SCHEDULER),
    )


def bert_ids() -> PromptIds:
    """A tokenizer like BERT's with single characters for a vocabulary."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = [*special, *letters, *(f"##{letter}" for letter in letters)]
    made = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    ends = [(text, made.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PromptIds(made, BERT_TOKENS, "[CLS]", "[SEP]", "[PAD]")


def t5_ids() -> PromptIds:
    """A tokenizer like T5's with single characters for a vocabulary."""
    special = ["<pad>", END, "<unk>"]
    letters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    made = Tokenizer(Unigram([(text, 0.0) for text in special] + [(text, -2.0) for text in letters], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PromptIds(made, T5_TOKENS, "", END, "<pad>")
