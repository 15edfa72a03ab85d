"""Checkpoints that cannot run are refused, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.domain.errors import UnsupportedModel
from tests.folders import edit, load, rename_weights


def drop(folder: Path, name: str) -> None:
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
def test_weights_that_do_not_fit_are_refused(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)

    with pytest.raises(UnsupportedModel, match=message):
        load(folder)


def test_a_second_text_encoder_that_is_named_and_left_empty_is_none(folder: Path) -> None:
    edit(folder / "model_index.json", text_encoder_2=[None, None], tokenizer_2=[None, None])

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
def test_folders_that_cannot_run_are_refused_with_what_to_use(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)

    with pytest.raises(UnsupportedModel, match=message) as caught:
        load(folder)

    assert str(folder) in str(caught.value)
    assert str(caught.value).endswith(f"use {DEFAULT_MODEL} instead")


def test_a_configuration_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "vae/config.json").write_text("{")

    with pytest.raises(UnsupportedModel, match=r"vae/config.json is not valid JSON"):
        load(folder)
