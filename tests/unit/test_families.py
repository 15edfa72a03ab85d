"""Families of models: which one a checkpoint is of, and what follows from that."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyanim_server import catalog
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.domain.job import Bucket
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.base import LoadOptions, ModelFamily
from easyanim_server.engine.families.registry import FAMILIES, recognise
from easyanim_server.engine.weights import checkpoint
from easyanim_server.engine.weights.index import CheckpointIndex
from tests.fakes import second_family as fakes

CPU = torch.device("cpu")
BOTH: tuple[ModelFamily, ...] = (*FAMILIES, fakes.SecondFamily())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fakes.write(tmp_path / "fake")
    return tmp_path / "fake"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported") / "model"
    checkpoint.export("builtin:tiny", place)
    return place


def test_a_second_family_is_recognised_from_its_folder_and_loads_it(folder: Path) -> None:
    index = checkpoint.find(str(folder))
    family = recognise(index, BOTH)

    assert family.name == "second"
    assert family.capabilities(index).geometry.latent_shape(Bucket(8, 12, 5)) == (5, 3, 2, 3)
    weights = sum(tensor.numel() for tensor in load_file(folder / fakes.WEIGHTS).values())
    assert family.outline(index, torch.bfloat16).total == 2 * weights
    assert family.load(index, LoadOptions(CPU, torch.float32)).name == str(folder)


def test_the_first_family_goes_on_being_recognised_beside_it(exported: Path) -> None:
    for name in ("builtin:tiny", "builtin:demo", "synthetic:7b", str(exported)):
        assert recognise(checkpoint.find(name), BOTH).name == catalog.EASYANIMATE_V51.family


def test_what_no_family_runs_is_refused_with_the_sentence_of_each(folder: Path) -> None:
    (folder / "model_index.json").write_text("{}")

    with pytest.raises(UnsupportedModel) as refused:
        recognise(checkpoint.find(str(folder)), BOTH)
    assert "has no transformer/config.json" in str(refused.value)
    assert str(refused.value).endswith(f"; {folder} is no SecondPipeline")


def test_capabilities_follow_the_configurations_of_a_folder(exported: Path, tmp_path: Path) -> None:
    family = FAMILIES[0]
    published = catalog.EASYANIMATE_V51
    assert family.capabilities(CheckpointIndex("some/model", exported)) == published

    for component, config in {"vae": {"latent_channels": 8}, "transformer": {"patch_size": 1}}.items():
        (tmp_path / component).mkdir()
        (tmp_path / component / "config.json").write_text(json.dumps(config))
    other = family.capabilities(CheckpointIndex("some/model", tmp_path))
    assert other == replace(published, geometry=replace(published.geometry, patch=1, latent_channels=8))


def test_an_index_names_tensors_with_their_shapes_before_and_after_the_download(exported: Path, tmp_path: Path) -> None:
    found = CheckpointIndex("some/model", exported).tensors("transformer")
    assert found["proj.bias"] == (128,)

    (tmp_path / "net").mkdir()
    (tmp_path / "net/x.safetensors.index.json").write_text('{"weight_map": {"weight": "x-1.safetensors"}}')
    assert CheckpointIndex("some/model", tmp_path).tensors("net") == {"weight": None}
    (tmp_path / "net/x-1.safetensors").write_bytes(b"short")
    with pytest.raises(UnsupportedModel, match=r"x-1\.safetensors is broken"):
        CheckpointIndex("some/model", tmp_path).tensors("net")


def test_buckets_that_a_checkpoint_does_not_make_are_refused_before_its_weights_are_read(
    exported: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(exported, tmp_path / "model")
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()
    settings = Settings.load({"model": str(model), "device": "cpu", "buckets": "32x40x5"})

    with pytest.raises(ConfigurationError, match="bucket '32x40x5': width 40 must be a positive multiple of 16"):
        Engine.load(EngineConfig.resolve(settings))
