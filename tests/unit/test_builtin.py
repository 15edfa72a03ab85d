from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateInpaintPipeline, EasyAnimateTransformer3DModel
from torch import nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig

from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder

CPU = torch.device("cpu")


def digest(*networks: nn.Module) -> str:
    """A fingerprint of every weight's bits."""
    found = hashlib.sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            found.update(name.encode())
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def digest_of_tiny(seed: int = 0) -> str:
    pipeline = builtin.tiny(device=CPU, dtype=torch.float32, seed=seed)
    return digest(pipeline.transformer, pipeline.vae, pipeline.text_encoder)


@pytest.fixture(scope="module")
def pipeline() -> EasyAnimateInpaintPipeline:
    return builtin.tiny(device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return builtin.tokenizer()


def in_template(tokenizer: Qwen2Tokenizer, prompt: str) -> str:
    conversation: Any = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def test_a_seed_gives_the_same_weights_in_two_processes() -> None:
    here = digest_of_tiny()
    script = "import test_builtin; print(test_builtin.digest_of_tiny())"
    there = subprocess.run(
        [sys.executable, "-c", script], cwd=__file__.rpartition("/")[0], capture_output=True, text=True, check=True
    )

    assert there.stdout.strip() == here


def test_another_seed_gives_other_weights() -> None:
    assert digest_of_tiny(seed=1) != digest_of_tiny()


def test_making_models_neither_uses_nor_changes_the_global_random_state() -> None:
    torch.manual_seed(7)
    first = digest_of_tiny()
    after = torch.rand(1)
    torch.manual_seed(7)

    assert torch.equal(torch.rand(1), after)
    assert digest_of_tiny() == first


def test_bfloat16_weights_are_the_float32_weights_rounded(pipeline: EasyAnimateInpaintPipeline) -> None:
    rounded = builtin.tiny(device=CPU, dtype=torch.bfloat16)

    for name in ("transformer", "vae", "text_encoder"):
        exact = getattr(pipeline, name).state_dict()
        for key, tensor in getattr(rounded, name).state_dict().items():
            assert torch.equal(tensor, exact[key].bfloat16()), key
    assert rounded.text_encoder.model.language_model.rotary_emb.inv_freq.dtype is torch.float32


def test_the_tiny_model_has_the_published_proportions(pipeline: EasyAnimateInpaintPipeline) -> None:
    vae, transformer = pipeline.vae, pipeline.transformer

    assert (vae.temporal_compression_ratio, vae.spatial_compression_ratio) == (4, 8)
    assert vae.config.latent_channels == 16
    assert vae.config.cache_mag_vae is True
    assert transformer.config.in_channels == 33
    assert [block.txt_ff is not None for block in transformer.transformer_blocks] == [True, True, False, False]
    assert pipeline.scheduler.config.use_dynamic_shifting
    assert pipeline.scheduler.config.shift == 3.0


def test_no_weight_of_the_tiny_model_is_zero_or_repeated(pipeline: EasyAnimateInpaintPipeline) -> None:
    for network in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        for name, tensor in network.named_parameters():
            assert tensor.numel() == 1 or tensor.std() > 0.01, name


def test_networks_are_frozen_and_in_eval_mode(pipeline: EasyAnimateInpaintPipeline) -> None:
    for network in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


@torch.no_grad()
def test_the_tiny_vae_decodes_to_colours_that_vary_over_the_picture_and_seldom_clip(
    pipeline: EasyAnimateInpaintPipeline,
) -> None:
    latents = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline.vae._clear_conv_cache()
    frames = pipeline.vae.decode(latents).sample
    pipeline.vae._clear_conv_cache()

    assert frames.shape == (1, 3, 5, 64, 64)
    assert frames.std() > 0.3
    assert (frames[:, 0] - frames[:, 1]).abs().mean() > 0.2
    assert (frames.abs() > 1).float().mean() < 0.2


@torch.no_grad()
def test_the_tiny_transformer_listens_to_every_input(pipeline: EasyAnimateInpaintPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 8, 8, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 16, 64, generator=generator),
        "inpaint_latents": torch.randn(1, 17, 2, 8, 8, generator=generator),
    }
    reference = pipeline.transformer(**inputs).sample

    assert 0.3 < reference.std() < 3
    for name, value in inputs.items():
        changed = pipeline.transformer(**inputs | {name: value * 0.5}).sample
        if name == "encoder_hidden_states":  # RMSNorm takes scale away
            changed = pipeline.transformer(**inputs | {name: value.roll(1, dims=-1)}).sample
        assert (changed - reference).std() > 0.02, name


@pytest.mark.parametrize("text", ["a cat runs", "一只猫在海滩上奔跑。", "🐈‍⬛ and é", "", "  two  spaces\n"])
def test_text_survives_the_tokenizer_which_counts_bytes(tokenizer: Qwen2Tokenizer, text: str) -> None:
    ids = tokenizer(text=text).input_ids

    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_the_chat_template_frames_a_prompt_as_qwen2_vl_does(tokenizer: Qwen2Tokenizer) -> None:
    assert in_template(tokenizer, "<a cat>") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<a cat><|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_are_one_id_each(tokenizer: Qwen2Tokenizer, pipeline: EasyAnimateInpaintPipeline) -> None:
    ids = tokenizer(text="<|im_start|>user\n<|im_end|>").input_ids

    assert len(ids) == 2 + len("user\n")
    assert tokenizer.pad_token == "<|endoftext|>"
    assert max(tokenizer.get_vocab().values()) < pipeline.text_encoder.config.text_config.vocab_size


def test_prompts_are_padded_on_the_right_and_cut(tokenizer: Qwen2Tokenizer) -> None:
    encoded = tokenizer(
        text=[in_template(tokenizer, "cat"), in_template(tokenizer, "猫" * 200)],
        padding="max_length", max_length=256, truncation=True, return_tensors="pt",
    )  # fmt: skip

    assert encoded.input_ids.shape == (2, 256)
    assert encoded.attention_mask[0].tolist() == sorted(encoded.attention_mask[0].tolist(), reverse=True)
    assert encoded.attention_mask[1].all()


@pytest.mark.parametrize(("size", "billions"), [("7b", 6.815), ("12b", 11.80)])
def test_synthetic_transformers_have_the_published_number_of_weights(size: str, billions: float) -> None:
    with torch.device("meta"):
        transformer = EasyAnimateTransformer3DModel(**builtin.PUBLISHED_TRANSFORMERS[size])

    assert sum(parameter.numel() for parameter in transformer.parameters()) / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_synthetic_vae_and_text_encoder_have_the_published_sizes() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLMagvit(**builtin.PUBLISHED_VAE)
    text_encoder = TrimmedTextEncoder.on_meta(Qwen2VLConfig(text_config=builtin.PUBLISHED_TEXT))

    assert 4 * sum(parameter.numel() for parameter in vae.parameters()) / 1e6 == pytest.approx(978, rel=0.01)
    assert len(text_encoder.model.layers) == 27
    weights = sum(parameter.numel() for parameter in text_encoder.parameters())
    assert weights == 152064 * 3584 + 27 * (
        2 * 3584 * 3584 + 3584 + 2 * (512 * 3584 + 512) + 3 * 3584 * 18944 + 2 * 3584
    )


def test_synthetic_weights_keep_activations_finite_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {"num_attention_heads": 2, "attention_head_dim": 32, "time_embed_dim": 64, "text_embed_dim": 64}
    monkeypatch.setitem(builtin.PUBLISHED_TRANSFORMERS, "7b", builtin.PUBLISHED_TRANSFORMERS["7b"] | narrow)
    monkeypatch.setattr(builtin, "PUBLISHED_VAE", {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4})
    text = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    monkeypatch.setattr(builtin, "PUBLISHED_TEXT", builtin.PUBLISHED_TEXT | text | {"rope_parameters": rope})

    modules = builtin.synthetic("7b", device=CPU, dtype=torch.bfloat16)
    ids = torch.arange(16).view(1, 16)
    with torch.no_grad():
        hidden = modules.text_encoder(ids, torch.ones_like(ids))
        velocity = modules.transformer(
            torch.randn(1, 16, 1, 8, 8, dtype=torch.bfloat16),
            torch.tensor([500.0], dtype=torch.bfloat16),
            encoder_hidden_states=hidden,
            inpaint_latents=torch.zeros(1, 17, 1, 8, 8, dtype=torch.bfloat16),
        ).sample

    assert len(modules.transformer.transformer_blocks) == 36
    assert modules.dtype is torch.bfloat16
    assert hidden.isfinite().all()
    assert 0.1 < velocity.float().std() < 10
