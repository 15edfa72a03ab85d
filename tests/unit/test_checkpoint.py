"""Checkpoints are written and read back to the same weights."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EasyAnimateInpaintPipeline

from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.compile.reference_cache import ReferenceCache
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.weights import checkpoint
from easyanim_server.engine.weights.read import files_of
from tests.folders import CPU, edit, load, rename_weights

NETWORKS = ("transformer", "vae", "text_encoder")


def assert_same_weights(one: Components, other: Components) -> None:
    for network in NETWORKS:
        here, there = getattr(one, network).state_dict(), getattr(other, network).state_dict()
        assert here.keys() == there.keys()
        for name, tensor in here.items():
            assert torch.equal(tensor, there[name]), name


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Two prompts of different length, padded: (2, 40) ids and mask."""
    tokenizer = builtin.tokenizer()
    encoded = tokenizer(text=["a cat runs", "一只猫"], padding="max_length", max_length=40, return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask


@torch.no_grad()
def outputs_of(modules: Components) -> tuple[torch.Tensor, ...]:
    """What each network makes of fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    text = modules.text_encoder(*prompts())
    latents = torch.randn(2, 16, 2, 8, 8, generator=generator)
    velocity = modules.transformer(
        latents,
        torch.tensor([500.0, 500.0]),
        encoder_hidden_states=text,
        inpaint_latents=torch.randn(2, 17, 2, 8, 8, generator=generator),
    ).sample
    modules.vae._clear_conv_cache()
    frames = modules.vae.decode(latents).sample
    modules.vae._clear_conv_cache()
    encoded = modules.vae.encode(frames).latent_dist.mode()
    modules.vae._clear_conv_cache()
    return text, velocity, frames, encoded


def test_an_exported_model_loads_to_the_same_weights_and_outputs(exported: Path) -> None:
    made, read = load("builtin:tiny"), load(exported)

    assert_same_weights(made, read)
    assert made.fingerprint() == read.fingerprint()
    for one, other in zip(outputs_of(made), outputs_of(read), strict=True):
        assert torch.equal(one, other)
    assert read.name == str(exported)


def test_loading_rounds_to_the_asked_type_and_keeps_rotary_frequencies_exact(exported: Path) -> None:
    read = load(exported, torch.bfloat16)

    assert_same_weights(load("builtin:tiny", torch.bfloat16), read)
    assert {parameter.dtype for name in NETWORKS for parameter in getattr(read, name).parameters()} == {torch.bfloat16}
    assert dict(read.text_encoder.named_buffers())["model.rotary_emb.inv_freq"].dtype is torch.float32


def test_loaded_networks_are_frozen_in_eval_mode_and_off_the_meta_device(exported: Path) -> None:
    read = load(exported)

    for name in NETWORKS:
        network = getattr(read, name)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"cpu"}


def test_tokenizer_and_scheduler_come_back_from_a_folder(exported: Path) -> None:
    read = load(exported)

    assert read.tokenizer.padding_side == "right"
    assert read.tokenizer.chat_template == builtin.tokenizer().chat_template
    assert read.tokenizer(text="一只猫 🐈").input_ids == builtin.tokenizer()(text="一只猫 🐈").input_ids
    published = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    assert published.items() <= read.scheduler.config.items()


def test_a_tokenizer_that_pads_on_the_left_is_turned_round(folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", padding_side="left", tokenizer_class="Qwen2TokenizerFast")

    assert load(folder).tokenizer.padding_side == "right"


def test_stock_diffusers_loads_and_runs_an_exported_model(exported: Path) -> None:
    pipeline = EasyAnimateInpaintPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        prompt="a cat",
        negative_prompt="",
        video=torch.zeros(1, 3, 5, 32, 32),
        mask_video=torch.full((1, 1, 5, 32, 32), 255.0),
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames

    assert frames.shape == (1, 5, 32, 32, 3)
    for name in ("transformer", "vae"):
        for key, tensor in getattr(load(exported), name).state_dict().items():
            assert torch.equal(tensor, getattr(pipeline, name).state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_trimmed_text_encoder_equals_the_stock_hidden_states_also_where_padded(
    exported: Path, dtype: torch.dtype
) -> None:
    stock = EasyAnimateInpaintPipeline.from_pretrained(exported, dtype=dtype).text_encoder
    ids, mask = prompts()
    expected = stock(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]

    assert not mask.all()
    assert torch.equal(load(exported, dtype).text_encoder(ids, mask), expected)
    assert torch.equal(TrimmedTextEncoder.of(stock)(ids, mask), expected)


def test_the_trimmed_text_encoder_has_neither_vision_tower_head_last_layer_nor_norm(exported: Path) -> None:
    names = load(exported).text_encoder.state_dict().keys()

    assert {name.split(".")[1] for name in names} == {"embed_tokens", "layers"}
    assert {name.split(".")[2] for name in names if "layers" in name} == {"0", "1"}


def test_text_encoders_saved_under_new_names_load_alike(exported: Path, folder: Path) -> None:
    def renamed(name: str) -> str:
        if name.startswith("visual."):
            return f"model.{name}"
        return name.replace("model.", "model.language_model.", 1)

    rename_weights(folder / "text_encoder/model.safetensors", renamed)

    assert_same_weights(load(exported), load(folder))


def test_a_text_encoder_configuration_of_transformers_4_loads_alike(exported: Path, folder: Path) -> None:
    file = folder / "text_encoder/config.json"
    text = json.loads(file.read_text())["text_config"]
    rope = text.pop("rope_parameters")
    flat = {key: text[key] for key in text if key not in ("layer_types", "model_type")}
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    edit(file, **flat, text_config=None, rope_theta=rope["rope_theta"], rope_scaling=scaling)

    for one, other in zip(outputs_of(load(exported)), outputs_of(load(folder)), strict=True):
        assert torch.equal(one, other)


def test_sharded_weights_load_without_the_shards_that_nothing_is_needed_of(exported: Path, tmp_path: Path) -> None:
    builtin.tiny(device=CPU, dtype=torch.float32).save_pretrained(tmp_path, max_shard_size="100KB")
    text_encoder = tmp_path / "text_encoder"
    encoder: Any = load(exported).text_encoder
    needed = files_of(text_encoder, "model", encoder.own_name)
    shards = {file.name for file in text_encoder.glob("*.safetensors")}
    for name in shards - set(needed):
        (text_encoder / name).unlink()

    assert 1 < len(needed) < len(shards)
    assert len(files_of(tmp_path / "transformer", "diffusion_pytorch_model")) > 1
    assert_same_weights(load(exported), load(tmp_path))


def test_a_vae_configuration_without_the_key_that_the_stock_pipeline_reads_gets_it(folder: Path) -> None:
    edit(folder / "vae/config.json", cache_mag_vae=None)

    assert load(folder).vae.config.cache_mag_vae is True


def test_the_name_of_a_pipelines_class_decides_nothing(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="EasyAnimatePipeline_Multi_Text_Encoder_Inpaint")

    assert load(folder).fingerprint()


def test_weights_in_the_authors_layout_are_the_same_model(exported: Path, folder: Path) -> None:
    def original(name: str) -> str:
        for ours, theirs in (
            (r"attn1\.add_([qkv])_proj\.", r"attn2.to_\1."),
            (r"attn1\.to_add_out\.", r"attn2.to_out.0."),
            (r"attn1\.norm_added_([qk])\.", r"attn2.norm_\1."),
        ):
            name = re.sub(ours, theirs, name)
        return name

    rename_weights(folder / "transformer/diffusion_pytorch_model.safetensors", original)

    own, stored = load(folder).transformer.state_dict(), load(exported).transformer.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], stored[name]) for name in own)


def test_positions_are_the_checkpoints_own_and_part_of_its_fingerprint(exported: Path, folder: Path) -> None:
    plain = load(exported)
    edit(folder / "transformer/config.json", rope_positions="original")
    assert load(folder).fingerprint() == plain.fingerprint()
    edit(folder / "transformer/config.json", rope_positions="diffusers")
    other = load(folder)
    assert other.fingerprint() != plain.fingerprint()

    assert EasyAnimateDenoiser(plain.transformer, "original").positions == "original"
    assert EasyAnimateDenoiser(other.transformer, "original").positions == "diffusers"
    assert EasyAnimateDenoiser(plain.transformer, "diffusers").positions == "diffusers"
    kept = ReferenceCache(folder, plain.transformer, "original")
    kept.get("32x48x5", CPU, lambda: torch.zeros(1))
    kept.save()
    assert ReferenceCache(folder, other.transformer, "original").missing("32x48x5")
    assert not ReferenceCache(folder, plain.transformer, "original").missing("32x48x5")


def test_only_models_made_here_are_exported_and_only_into_an_empty_folder(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="some/model cannot be exported; builtin:tiny, synthetic:7b, "):
        checkpoint.export("some/model", tmp_path)
    with pytest.raises(ConfigurationError, match="is not an empty folder; nothing was written"):
        checkpoint.export("builtin:tiny", exported)
    checkpoint.export("builtin:tiny", tmp_path)
    assert (tmp_path / "model_index.json").is_file()


def test_synthetic_models_load_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(builtin, "synthetic", lambda size, **options: made.append((size, options)))
    load("synthetic:12b", torch.bfloat16)

    assert made == [("12b", {"device": CPU, "dtype": torch.bfloat16, "on_host": False})]


def test_the_libraries_write_nothing_past_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    load("builtin:demo")
    logging.getLogger("diffusers.configuration_utils").warning("something else")

    assert [record.getMessage() for record in caplog.records] == ["something else"]
    assert capfd.readouterr() == ("", "")
