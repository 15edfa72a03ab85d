"""The models that are known by name, before any is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from easyanim_server import catalog
from easyanim_server.config.settings import Settings
from easyanim_server.domain import published
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import START, Bucket
from easyanim_server.engine.weights import checkpoint


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, easyanim_server.catalog; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("model", ["builtin:tiny", "builtin:demo", "synthetic:7b", "synthetic:12b"])
def test_the_geometry_of_known_models_is_that_of_their_configurations(model: str) -> None:
    assert checkpoint.outline(model, torch.float32).geometry == catalog.expected(model).geometry


def test_capabilities_are_those_of_the_loaded_configurations() -> None:
    modules = checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.float32)

    assert modules.capabilities == catalog.expected("builtin:tiny")


def test_buckets_of_known_models_are_checked_with_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="height 100 must be a positive multiple of 16"):
        Settings.load({"model": "builtin:tiny", "buckets": "100x100"})
    assert Settings.load({"model": "builtin:tiny"}).catalogue[0] == Bucket(96, 160, 49)


def test_buckets_of_other_models_wait_for_their_checkpoint() -> None:
    assert Settings.load({"model": "some/model", "buckets": "20x20x7"}).catalogue == (Bucket(20, 20, 7),)
    assert Settings.load({"model": "some/model", "buckets": "32x32"}).catalogue == (Bucket(32, 32, 49),)


def test_every_published_model_that_can_be_served_is_known_on_either_host() -> None:
    for model in published.PUBLISHED:
        known = catalog.find(model.id)
        assert known == catalog.find(f"modelscope:PAI/{model.name}")
        assert (known is None) is (published.refusal(model.id) is not None)
        if known is not None:
            assert known.like in catalog.SYNTHETIC
            assert (START in known.capabilities.tasks) is (model.kind == "image-to-video")


def test_a_published_model_needs_no_owner() -> None:
    assert Settings.load({"model": "EasyAnimateV5-7b-zh-InP"}).model == "alibaba-pai/EasyAnimateV5-7b-zh-InP"
    scope = Settings.load({"model": "modelscope:EasyAnimateV5.1-12b-zh"})
    assert scope.model == "modelscope:PAI/EasyAnimateV5.1-12b-zh"
