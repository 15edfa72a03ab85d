"""Names and configurations of the authors' layout, and what tells a model by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
from safetensors import safe_open
from safetensors.torch import save_file

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.weights import original
from easyanim_server.engine.weights.identity import Identity, Shapes, identify, identity_of, layout_of
from easyanim_server.engine.weights.index import CheckpointIndex

FIXTURES = Path(__file__).parents[1] / "fixtures"
V5, V5_TEXT = FIXTURES / "upstream/models/v5-inp", FIXTURES / "upstream/models/v5-t2v"
V51, V51_TEXT = FIXTURES / "v51-inp-i2v", FIXTURES / "upstream/models/v51-t2v"


def shapes(folder: Path, component: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for file in (folder / component).glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            found |= {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    return found


def config(folder: Path, component: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / component / "config.json").read_text())
    return content


def parts(folder: Path) -> dict[str, Shapes]:
    return {
        "transformer": shapes(folder, "transformer"),
        "vae": shapes(folder, "vae"),
        "text": shapes(folder, "text_encoder"),
        "second_text": shapes(folder, "text_encoder_2"),
    }


@pytest.mark.parametrize("folder", [V5, V5_TEXT, V51, V51_TEXT], ids=lambda folder: folder.name)
def test_renamed_weights_are_those_of_diffusers_network(folder: Path) -> None:
    stored = shapes(folder, "transformer")
    with torch.device("meta"):
        network = EasyAnimateTransformer3DModel.from_config(original.transformer_config(config(folder, "transformer")))
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    assert {original.transformer_name(name): shape for name, shape in stored.items()} == ours
    assert [original.original_name(original.transformer_name(name)) for name in stored] == list(stored)


@pytest.mark.parametrize(("folder", "more"), [(V5, 20), (V51, 0)], ids=["V5", "V5.1"])
def test_the_vae_has_the_weights_of_diffusers_and_in_v5_attention_besides(folder: Path, more: int) -> None:
    stored, described = shapes(folder, "vae"), config(folder, "vae")
    with torch.device("meta"):
        network = AutoencoderKLMagvit.from_config(described)
    attention = {name for name in stored if original.MIDDLE in name}

    assert stored.keys() - attention == network.state_dict().keys()
    assert len(attention) == more
    assert original.has_attention(described, stored) is bool(more)
    original.check_vae(described)


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({}, (), r"vae lacks decoder\.mid_block\.attentions\.0\.to_q\.weight .*mid_block_use_attention false"),
        ({"mid_block_attention_type": "3d"}, ("a.mid_block.attentions.0.to_q.weight",), "'3d'; must be 'spatial'"),
        ({"mid_block_num_attention_heads": 2}, ("a.mid_block.attentions.0.to_q.weight",), "heads 2; must be 1"),
    ],
)
def test_attention_that_cannot_be_is_refused(changes: dict[str, Any], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        original.has_attention(config(V5, "vae") | changes, names)


def test_attention_that_is_turned_off_is_left_out_whatever_is_stored() -> None:
    off = config(V5, "vae") | {"mid_block_use_attention": False}

    assert original.has_attention(off, shapes(V5, "vae")) is False


@pytest.mark.parametrize(
    ("check", "component", "key", "value"),
    [
        (original.check_transformer, "transformer", "after_norm", True),
        (original.check_transformer, "transformer", "swa_layers", [1, 2]),
        (original.check_transformer, "transformer", "enable_clip_in_inpaint", True),
        (original.check_transformer, "transformer", "time_position_encoding_type", "2d_rope"),
        (original.check_transformer, "transformer", "resize_inpaint_mask_directly", False),
        (original.check_vae, "vae", "spatial_group_norm", False),
        (original.check_vae, "vae", "scaling_factor", 0.1825),
    ],
)
def test_configurations_of_unpublished_networks_are_refused_by_their_key(
    check: Any, component: str, key: str, value: object
) -> None:
    described = config(V5, component)
    check(described)

    with pytest.raises(UnsupportedModel) as caught:
        check(described | {key: value})

    assert f"{component}/config.json has {key} {value!r}; must be " in str(caught.value)


def test_a_vae_configuration_without_a_published_value_is_not_guessed() -> None:
    described = config(V5, "vae")
    del described["scaling_factor"]

    with pytest.raises(UnsupportedModel, match=r"vae/config.json has no scaling_factor; must have 0.7125"):
        original.check_vae(described)


@pytest.mark.parametrize(
    ("folder", "identity"),
    [
        (V5, Identity("V5", "image-to-video", "original")),
        (V5_TEXT, Identity("V5", "text-to-video", "original")),
        (V51, Identity("V5.1", "image-to-video", "original")),
        (V51_TEXT, Identity("V5.1", "text-to-video", "original")),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_models_are_told_by_their_tensors(folder: Path, identity: Identity) -> None:
    assert identify(**parts(folder)) == identity


@pytest.mark.parametrize(
    ("folder", "channels", "kind"),
    [(V5, 32, "Control"), (V51, 48, "Control"), (V51, 38, "Control-Camera")],
)
def test_models_that_follow_something_are_told_by_input_channels(folder: Path, channels: int, kind: str) -> None:
    given = parts(folder)
    given["transformer"] = dict(given["transformer"]) | {"proj.weight": (32, channels, 2, 2)}

    assert identify(**given).kind == kind


def test_other_input_channels_are_refused_by_the_name_that_has_them() -> None:
    given = parts(V5)
    given["transformer"] = dict(given["transformer"]) | {"proj.weight": (32, 40, 2, 2)}

    with pytest.raises(UnsupportedModel, match=r"proj\.weight has 40 input channels, as no EasyAnimate V5 has"):
        identify(**given)


def halves() -> dict[str, tuple[dict[str, Any], str]]:
    """Checkpoints of two models, and what is said of them."""
    v5, v51 = parts(V5), parts(V51)
    renamed = {original.transformer_name(name): shape for name, shape in v51["transformer"].items()}
    some = dict(list(renamed.items())[:40]) | dict(list(v51["transformer"].items())[40:])
    return {
        "text encoder of V5.1": (
            v5 | {"text": v51["text"]},
            "transformer has text_proj_t5.weight, as V5 has, and text_encoder has model.embed_tokens.weight, as V5.1",
        ),
        "text encoder of V5": (
            v51 | {"text": v5["text"]},
            "has text_proj.1.weight, as V5.1 has, and text_encoder has embeddings.word_embeddings.weight, as V5 has",
        ),
        "second text encoder": (v51 | {"second_text": v5["second_text"]}, "and there is a text_encoder_2, as V5 has"),
        "transformer of both": (
            v5 | {"transformer": {**v5["transformer"], "text_proj.1.weight": (32, 64)}},
            "transformer is half V5's, which has text_proj_t5.bias, and half V5.1's, which has text_proj.1.weight",
        ),
        "layouts of both": (
            v51 | {"transformer": some},
            "transformer is half in the original layout, which has transformer_blocks.0.attn2.",
        ),
        "V5 without its second": (
            v5 | {"transformer": {k: v for k, v in v5["transformer"].items() if "t5" not in k}},
            "transformer has text_proj.weight, as V5 has, and lacks text_proj_t5.weight",
        ),
        "another width": (
            v51 | {"text": {"model.embed_tokens.weight": (272, 128)}},
            "transformer's text_proj.1.weight [32, 64] reads 64 numbers a token, and text_encoder's "
            "model.embed_tokens.weight [272, 128] has 128",
        ),
        "another VAE": (
            v51 | {"vae": {"decoder.conv_in.weight": (16, 4, 3, 3, 3)}},
            "transformer's proj_out.weight makes latents of 16 channels, and vae's decoder.conv_in.weight takes 4",
        ),
        "no EasyAnimate": (
            v51 | {"transformer": {"x": (1,)}},
            "has neither text_proj_t5.weight, as V5 has",
        ),
    }


@pytest.mark.parametrize("case", halves())
def test_half_of_one_model_and_half_of_another_is_refused_by_names(case: str) -> None:
    given, message = halves()[case]

    with pytest.raises(UnsupportedModel) as caught:
        identify(**given)

    assert message in str(caught.value)


def test_without_text_weights_of_their_own_no_layout_is_told() -> None:
    assert layout_of({name: None for name in shapes(V51, "transformer") if ".attn2." not in name}) is None


def test_other_families_checkpoints_are_left_to_them(tmp_path: Path) -> None:
    for component in ("transformer", "vae", "text_encoder"):
        (tmp_path / component).mkdir()
        save_file({"x.weight": torch.zeros(1)}, tmp_path / component / "model.safetensors")

    assert identity_of(CheckpointIndex("theirs", tmp_path)) is None
    assert identity_of(CheckpointIndex("ours", V51)) == Identity("V5.1", "image-to-video", "original")
