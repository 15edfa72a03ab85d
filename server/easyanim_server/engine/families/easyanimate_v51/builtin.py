"""Models made here instead of downloaded: a tiny complete one, and the published shapes with random weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateInpaintPipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder

SyntheticSize = Literal["7b", "12b"]

SYNTHETIC: dict[str, SyntheticSize] = {"synthetic:7b": "7b", "synthetic:12b": "12b"}
"""Models of published shape with random weights, by name."""

LATENT_CHANNELS = 16

_TRANSFORMER: dict[str, Any] = {
    "in_channels": 2 * LATENT_CHANNELS + 1,  # noise, mask, masked video
    "out_channels": LATENT_CHANNELS,
    "patch_size": 2,
    "add_norm_text_encoder": True,
    "norm_eps": 1e-5,
}
"""What the image-to-video transformers of all sizes share."""

PUBLISHED_TRANSFORMERS: dict[str, dict[str, Any]] = {
    size: _TRANSFORMER
    | {"num_attention_heads": 48, "attention_head_dim": 64, "time_embed_dim": 512, "text_embed_dim": 3584}
    | {"num_layers": layers, "mmdit_layers": mmdit_layers}
    for size, layers, mmdit_layers in (("7b", 36, 18), ("12b", 48, 48))
}
"""Configurations of EasyAnimate V5.1's transformers: 6.8 and 11.8 billion parameters."""

PUBLISHED_VAE: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "latent_channels": LATENT_CHANNELS}
"""Configuration of EasyAnimate V5.1's VAE; the rest are diffusers' defaults."""

PUBLISHED_TEXT: dict[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
"""Configuration of Qwen2-VL-7B's language model."""

_SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_SPECIAL_IDS = {token: 256 + index for index, token in enumerate(_SPECIAL_TOKENS)}  # after the bytes

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's conversation format, for text."""


def tiny(
    *, device: torch.device, dtype: torch.dtype, seed: int = 0, num_layers: int = 4, mmdit_layers: int = 2
) -> EasyAnimateInpaintPipeline:
    """Make a complete model of about three million weights: every part is of the published class, only narrow.

    Compression (4x8x8), latent and input channels are the published ones, both kinds of transformer block are
    there, and the text encoder has its vision tower, LM head and last layer, so the pipeline can be saved and
    loaded by stock diffusers. Videos show coloured texture that depends on every input.

    Args:
        device: Where the networks go; weights are drawn on the CPU, so they are the same everywhere.
        dtype: Of the weights, rounded from float32.
        seed: Of the weights. The global random state is neither used nor changed.
        num_layers: Blocks of the transformer.
        mmdit_layers: How many of them, from the first, have weights of their own for text.

    Returns:
        The stock pipeline in eval mode without gradients.
    """
    with torch.random.fork_rng(devices=[]):  # constructors draw on the CPU
        transformer = EasyAnimateTransformer3DModel(
            **_TRANSFORMER,
            num_attention_heads=4,
            attention_head_dim=32,
            time_embed_dim=64,
            text_embed_dim=64,
            num_layers=num_layers,
            mmdit_layers=mmdit_layers,
        )
        vae = published_vae(block_out_channels=(16, 32, 32, 32), latent_channels=LATENT_CHANNELS, norm_num_groups=8)
        text_encoder = Qwen2VLForConditionalGeneration(_tiny_text_config())  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    for network in (transformer, vae, text_encoder):
        draw_weights(network, generator, spread=0.1)
    _sharpen(transformer)
    for network in (transformer, vae, text_encoder):
        finish(network, device, dtype)
    return EasyAnimateInpaintPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer(), transformer=transformer, scheduler=scheduler()
    )


def synthetic(
    size: SyntheticSize,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    text_layers: int = 27,
    on_host: bool = False,
) -> Components:
    """Make a model of published shape with random weights, to measure speed and memory without a download.

    Weights are drawn on the device itself, so host memory holds none of them unless it is to, and scaled so that
    activations stay finite in bfloat16. They are the same for one seed on one kind of device only.

    Args:
        size: ``7b`` or ``12b``.
        device: Where the networks are made.
        dtype: Of the weights.
        seed: Of the weights. The global random state is neither used nor changed.
        text_layers: Layers of the text encoder. With 0, the 1.1 GB embedding table remains of its 14 GB.
        on_host: Whether each weight goes to host memory as soon as it is drawn.

    Returns:
        Networks of published shape, with the tiny model's tokenizer.
    """
    modules = synthetic_outline(size, text_layers=text_layers)
    generator = torch.Generator(device).manual_seed(seed)
    home = torch.device("cpu") if on_host else device
    for network in (modules.transformer, modules.vae, modules.text_encoder):
        allocate(network, home, dtype)
        draw_weights(network, generator, spread=0.0)
        finish(network, home, dtype)
    modules.compute = device
    return modules


def synthetic_outline(size: SyntheticSize, *, text_layers: int = 27) -> Components:
    """Make a model of published shape on the meta device, without weights; see `synthetic`."""
    with torch.device("meta"):
        transformer = EasyAnimateTransformer3DModel(**PUBLISHED_TRANSFORMERS[size])
        vae = published_vae(**PUBLISHED_VAE)
    return Components(
        name=f"synthetic:{size}",
        transformer=transformer,
        vae=vae,
        text_encoder=TrimmedTextEncoder.on_meta(synthetic_text_config(text_layers)),
        tokenizer=tokenizer(),
        scheduler=scheduler(),
    )


def synthetic_text_config(text_layers: int = 27) -> Qwen2VLConfig:
    """Configuration of the Qwen2-VL whose first layers a synthetic model's text encoder has."""
    return Qwen2VLConfig(text_config=PUBLISHED_TEXT | {"num_hidden_layers": text_layers + 1})


def tokenizer() -> Qwen2Tokenizer:
    """Make Qwen2's tokenizer with single bytes for a vocabulary: a token a byte, and the special tokens."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    made = Qwen2Tokenizer(
        vocab=vocabulary | _SPECIAL_IDS,
        merges=[],
        eos_token="<|im_end|>",
        extra_special_tokens=list(_SPECIAL_TOKENS),
        padding_side="right",
        model_max_length=32768,
    )
    made.chat_template = _CHAT_TEMPLATE
    return made


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Make the scheduler as EasyAnimate V5.1 publishes it."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def published_vae(**config: Any) -> AutoencoderKLMagvit:
    """Make a VAE with the keys that publishers add to its configuration."""
    vae = AutoencoderKLMagvit(**config)
    # The stock pipeline reads this published key, which the class itself does not know.
    vae.register_to_config(cache_mag_vae=True)
    return vae


def _tiny_text_config() -> Qwen2VLConfig:
    return Qwen2VLConfig(
        text_config={
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "vocab_size": 320,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": _SPECIAL_IDS["<|endoftext|>"],
            "eos_token_id": _SPECIAL_IDS["<|im_end|>"],
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        vision_start_token_id=_SPECIAL_IDS["<|vision_start|>"],
        vision_end_token_id=_SPECIAL_IDS["<|vision_end|>"],
        image_token_id=_SPECIAL_IDS["<|image_pad|>"],
        video_token_id=_SPECIAL_IDS["<|video_pad|>"],
    )


@torch.no_grad()
def draw_weights(network: nn.Module, generator: torch.Generator, spread: float) -> None:
    """Draw matrices that keep the variance of their input; biases about 0 and norms about 1, off by `spread`."""
    for name, parameter in network.named_parameters():
        elsewhere = parameter.device.type != generator.device.type
        drawn = torch.empty_like(parameter, device=generator.device) if elsewhere else parameter
        if drawn.ndim > 1:
            fan_in = drawn[0].numel()
            drawn.normal_(0.0, fan_in**-0.5, generator=generator)
        else:
            drawn.normal_(1.0 if name.endswith("weight") else 0.0, spread, generator=generator)
        if elsewhere:
            parameter.copy_(drawn)


@torch.no_grad()
def _sharpen(transformer: EasyAnimateTransformer3DModel) -> None:
    """Make attention choose: random queries and keys attend evenly, and prompt and picture would hardly show."""
    for block in transformer.transformer_blocks:
        attention = block.attn1
        for norm in (attention.norm_q, attention.norm_k, attention.norm_added_q, attention.norm_added_k):
            if norm is not None:  # blocks without weights for text lack the added ones
                norm.weight.mul_(3.0)


def allocate(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give parameters on the meta device memory on `device`, without values."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty_like(parameter, device=device, dtype=dtype)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))


def finish(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move to the device; parameters take `dtype`, buffers (rotary frequencies) stay in float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to(device).eval().requires_grad_(False)
