import json
import logging
import re
import shutil

import pytest
import torch
from diffusers import EasyAnimateInpaintPipeline
from safetensors.torch import load_file, save_file

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.compile.reference_cache import ReferenceCache
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.weights import checkpoint
from easyanim_server.engine.weights.read import files_of

CPU = torch.device("cpu")
NETWORKS = ("transformer", "vae", "text_encoder")


def load(model, dtype=torch.float32, revision=None):
    return checkpoint.load(str(model), device=CPU, dtype=dtype, revision=revision)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The tiny model as a folder; to be read, not changed."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    checkpoint.export("builtin:tiny", folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "model")


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename_weights(file, rename):
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def assert_same_weights(one, other):
    for network in NETWORKS:
        here, there = getattr(one, network).state_dict(), getattr(other, network).state_dict()
        assert here.keys() == there.keys()
        for name, tensor in here.items():
            assert torch.equal(tensor, there[name]), name


def prompts():
    """Two prompts of different length, padded: (2, 40) ids and mask."""
    tokenizer = builtin.tokenizer()
    encoded = tokenizer(text=["a cat runs", "一只猫"], padding="max_length", max_length=40, return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask


@torch.no_grad()
def outputs_of(modules):
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


def test_an_exported_model_loads_to_the_same_weights_and_outputs(exported):
    made, read = load("builtin:tiny"), load(exported)

    assert_same_weights(made, read)
    assert made.fingerprint() == read.fingerprint()
    for one, other in zip(outputs_of(made), outputs_of(read), strict=True):
        assert torch.equal(one, other)
    assert read.name == str(exported)


def test_loading_rounds_to_the_asked_type_and_keeps_rotary_frequencies_exact(exported):
    read = load(exported, torch.bfloat16)

    assert_same_weights(load("builtin:tiny", torch.bfloat16), read)
    assert {parameter.dtype for name in NETWORKS for parameter in getattr(read, name).parameters()} == {torch.bfloat16}
    assert read.text_encoder.model.rotary_emb.inv_freq.dtype is torch.float32


def test_loaded_networks_are_frozen_in_eval_mode_and_off_the_meta_device(exported):
    read = load(exported)

    for name in NETWORKS:
        network = getattr(read, name)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"cpu"}


def test_tokenizer_and_scheduler_come_back_from_a_folder(exported):
    read = load(exported)

    assert read.tokenizer.padding_side == "right"
    assert read.tokenizer.chat_template == builtin.tokenizer().chat_template
    assert read.tokenizer(text="一只猫 🐈").input_ids == builtin.tokenizer()(text="一只猫 🐈").input_ids
    published = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    assert published.items() <= read.scheduler.config.items()


def test_a_tokenizer_that_pads_on_the_left_is_turned_round(folder):
    edit(folder / "tokenizer/tokenizer_config.json", padding_side="left", tokenizer_class="Qwen2TokenizerFast")

    assert load(folder).tokenizer.padding_side == "right"


def test_stock_diffusers_loads_and_runs_an_exported_model(exported):
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
def test_the_trimmed_text_encoder_equals_the_stock_hidden_states_also_where_padded(exported, dtype):
    stock = EasyAnimateInpaintPipeline.from_pretrained(exported, dtype=dtype).text_encoder
    ids, mask = prompts()
    expected = stock(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]

    assert not mask.all()
    assert torch.equal(load(exported, dtype).text_encoder(ids, mask), expected)
    assert torch.equal(TrimmedTextEncoder.of(stock)(ids, mask), expected)


def test_the_trimmed_text_encoder_has_neither_vision_tower_head_last_layer_nor_norm(exported):
    names = load(exported).text_encoder.state_dict().keys()

    assert {name.split(".")[1] for name in names} == {"embed_tokens", "layers"}
    assert {name.split(".")[2] for name in names if "layers" in name} == {"0", "1"}


def test_text_encoders_saved_under_new_names_load_alike(exported, folder):
    def renamed(name):
        if name.startswith("visual."):
            return f"model.{name}"
        return name.replace("model.", "model.language_model.", 1)

    rename_weights(folder / "text_encoder/model.safetensors", renamed)

    assert_same_weights(load(exported), load(folder))


def test_a_text_encoder_configuration_of_transformers_4_loads_alike(exported, folder):
    file = folder / "text_encoder/config.json"
    text = json.loads(file.read_text())["text_config"]
    rope = text.pop("rope_parameters")
    flat = {key: text[key] for key in text if key not in ("layer_types", "model_type")}
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    edit(file, **flat, text_config=None, rope_theta=rope["rope_theta"], rope_scaling=scaling)

    for one, other in zip(outputs_of(load(exported)), outputs_of(load(folder)), strict=True):
        assert torch.equal(one, other)


def test_sharded_weights_load_without_the_shards_that_nothing_is_needed_of(exported, tmp_path):
    builtin.tiny(device=CPU, dtype=torch.float32).save_pretrained(tmp_path, max_shard_size="100KB")
    text_encoder = tmp_path / "text_encoder"
    needed = files_of(text_encoder, "model", load(exported).text_encoder.own_name)
    shards = {file.name for file in text_encoder.glob("*.safetensors")}
    for name in shards - set(needed):
        (text_encoder / name).unlink()

    assert 1 < len(needed) < len(shards)
    assert len(files_of(tmp_path / "transformer", "diffusion_pytorch_model")) > 1
    assert_same_weights(load(exported), load(tmp_path))


def test_a_vae_configuration_without_the_key_that_the_stock_pipeline_reads_gets_it(folder):
    edit(folder / "vae/config.json", cache_mag_vae=None)

    assert load(folder).vae.config.cache_mag_vae is True


def drop(folder, name):
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)


WRONG_WEIGHTS = {
    "a missing tensor is named": (
        lambda folder: drop(folder, "proj.bias"),
        "transformer do not fit its config.json: missing proj.bias",
    ),
    "an unexpected tensor is named": (
        lambda folder: edit(folder / "transformer/config.json", num_layers=3),
        r"unexpected transformer_blocks\.3\..*, transformer_blocks\.3\..*, transformer_blocks\.3\..* and \d+ more",
    ),
    "a tensor of wrong shape is named": (
        lambda folder: edit(folder / "transformer/config.json", time_embed_dim=32),
        r"wrong shape .*time_embedding\.linear_1\.bias \[64\] instead of \[32\]|wrong shape .* and \d+ more",
    ),
    "an unknown tensor in the text encoder is named": (
        lambda folder: rename_weights(
            folder / "text_encoder/model.safetensors", lambda name: name.replace("layers.0", "layers.9")
        ),
        r"missing model\.layers\.0\..*unexpected model\.layers\.9",
    ),
    "pickled weights are not read": (
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").rename(
            folder / "vae/diffusion_pytorch_model.bin"
        ),
        r"vae lacks diffusion_pytorch_model.safetensors; weights are read from safetensors files alone.*\.bin",
    ),
    "a truncated file is named": (
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"short"),
        r"vae/diffusion_pytorch_model.safetensors is broken",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(folder, spoil, message):
    spoil(folder)

    with pytest.raises(UnsupportedModel, match=message):
        load(folder)


REFUSED_FOLDERS = {
    "no model_index.json": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "missing component": (lambda f: shutil.rmtree(f / "vae"), "has no vae/config.json"),
    "two text encoders": (
        lambda f: edit(f / "model_index.json", text_encoder_2=["transformers", "T5EncoderModel"]),
        "is half of EasyAnimate V5: it has text_encoder_2",
    ),
    "V5's attention mask": (
        lambda f: edit(f / "transformer/config.json", enable_text_attention_mask=False),
        "is half of EasyAnimate V5: enable_text_attention_mask is false",
    ),
    "T5 embeddings": (
        lambda f: edit(f / "transformer/config.json", text_embed_dim_t5=2048),
        "has no text_encoder_2/config.json",
    ),
    "BERT": (lambda f: edit(f / "text_encoder/config.json", model_type="bert"), "reads prompts with bert"),
    "DDIM": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "is sampled with DDIMScheduler",
    ),
    "Control": (lambda f: edit(f / "transformer/config.json", in_channels=48), "is a Control model"),
    "Control-Camera": (lambda f: edit(f / "transformer/config.json", in_channels=38), "is a Control-Camera model"),
    "unknown inputs": (lambda f: edit(f / "transformer/config.json", in_channels=20), "is no image-to-video model"),
    "encoded mask": (
        lambda f: edit(f / "transformer/config.json", resize_inpaint_mask_directly=False),
        "resize_inpaint_mask_directly is false",
    ),
    "unknown positions": (
        lambda f: edit(f / "transformer/config.json", rope_positions="learnt"),
        "has a transformer/config.json whose rope_positions is 'learnt'; must be one of original, diffusers",
    ),
    "another VAE": (lambda f: edit(f / "vae/config.json", block_out_channels=[16, 32, 32]), "compression than 4x8x8"),
    "no chat template": (lambda f: (f / "tokenizer/chat_template.jinja").unlink(), "has no chat template"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED_FOLDERS.values(), ids=REFUSED_FOLDERS)
def test_folders_that_cannot_run_are_refused_with_what_to_use(folder, spoil, message):
    spoil(folder)

    with pytest.raises(UnsupportedModel, match=message) as caught:
        load(folder)

    assert str(folder) in str(caught.value)
    assert str(caught.value).endswith(f"use {DEFAULT_MODEL} instead")


def test_the_name_of_a_pipelines_class_decides_nothing(folder):
    edit(folder / "model_index.json", _class_name="EasyAnimatePipeline_Multi_Text_Encoder_Inpaint")

    assert load(folder).fingerprint()


def test_weights_in_the_authors_layout_are_the_same_model(exported, folder):
    def original(name):
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


def test_a_configuration_that_is_no_json_is_named(folder):
    (folder / "vae/config.json").write_text("{")

    with pytest.raises(UnsupportedModel, match=r"vae/config.json is not valid JSON"):
        load(folder)


def test_positions_are_the_checkpoints_own_and_part_of_its_fingerprint(exported, folder):
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


def test_only_models_made_here_are_exported_and_only_into_an_empty_folder(exported, tmp_path):
    with pytest.raises(UnsupportedModel, match="some/model cannot be exported; builtin:tiny, synthetic:7b, "):
        checkpoint.export("some/model", tmp_path)
    with pytest.raises(ConfigurationError, match="is not an empty folder; nothing was written"):
        checkpoint.export("builtin:tiny", exported)
    checkpoint.export("builtin:tiny", tmp_path)
    assert (tmp_path / "model_index.json").is_file()


def test_synthetic_models_load_by_name(monkeypatch):
    made = []
    monkeypatch.setattr(builtin, "synthetic", lambda size, **options: made.append((size, options)))
    load("synthetic:12b", torch.bfloat16)

    assert made == [("12b", {"device": CPU, "dtype": torch.bfloat16, "on_host": False})]


def test_the_libraries_write_nothing_past_the_log(caplog, capfd):
    load("builtin:demo")
    logging.getLogger("diffusers.configuration_utils").warning("something else")

    assert [record.getMessage() for record in caplog.records] == ["something else"]
    assert capfd.readouterr() == ("", "")
