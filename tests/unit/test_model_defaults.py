"""Guidance, steps and sizes that a model brings along in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from easyanim_server.catalog import DEFAULT_MODEL, EASYANIMATE_V51
from easyanim_server.config import model_checks
from easyanim_server.config.model_defaults import FILE, read
from easyanim_server.config.settings import Settings
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import PROFILES
from easyanim_server.engine.weights import checkpoint


def folder(path: Path, text: str, encoding: str = "utf-8") -> Path:
    (path / "model_index.json").write_text("{}")
    (path / FILE).write_text(text, encoding=encoding)
    return path


def test_the_demo_brings_its_own_and_published_models_have_theirs() -> None:
    demo, published = Settings.load({"model": "builtin:demo"}), Settings.load({"model": DEFAULT_MODEL})

    assert (demo.expected.defaults.guidance, demo.expected.defaults.steps) == (2.0, 35)
    assert [str(bucket) for bucket in demo.catalogue] == ["128x128x25", "128x224x25"]
    assert (published.expected.defaults.guidance, published.expected.defaults.steps) == (6.0, 35)
    assert [bucket.name for bucket in published.catalogue][:2] == ["384x672", "672x384"]


def test_what_the_operator_sets_goes_before_the_models_own() -> None:
    assert Settings.load({"model": "builtin:demo", "buckets": "64x64x5"}).catalogue == (Bucket(64, 64, 5),)


def test_a_folder_is_served_as_its_file_says(tmp_path: Path) -> None:
    given = {"defaults": {"guidance_scale": 3, "step_count": 20, "buckets": ["64x96x9"]}}
    folder(tmp_path, json.dumps(given), "utf-8-sig")

    settings = Settings.load({"model": str(tmp_path)})

    assert settings.expected.defaults == ModelDefaults(3.0, 20, (Bucket(64, 96, 9),), noise_augmentation=0.0563)
    assert settings.catalogue == (Bucket(64, 96, 9),)
    assert read(tmp_path / "elsewhere") == EASYANIMATE_V51.defaults


def test_steps_are_those_of_exact_and_other_profiles_keep_theirs() -> None:
    own = ModelDefaults(steps=20)

    assert [own.profile(name).steps for name in PROFILES] == [20, 25, 20, 9]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"defaults": {"guidance_scale": 2', "cannot be read as JSON"),
        ("[]", "must be an object such as"),
        ('{"defaults": {"guidence": 2}}', "unknown key 'guidence' in defaults; known are guidance_scale, step_count"),
        ('{"defaults": {"guidance_scale": 0.5}}', "guidance_scale is 0.5; must be a number from 1 to 20"),
        ('{"defaults": {"guidance_scale": NaN}}', "guidance_scale is nan; must be a number from 1 to 20"),
        ('{"defaults": {"step_count": 2.5}}', "step_count is 2.5; must be a whole number from 1 to 200"),
        ('{"defaults": {"step_count": true}}', "step_count is True; must be a whole number from 1 to 200"),
        ('{"defaults": {"buckets": []}}', "buckets is []; must be a list of different sizes"),
        ('{"defaults": {"buckets": ["100x100"]}}', "height 100 must be a positive multiple of 16"),
        ('{"defaults": {"buckets": 5}}', "buckets is 5: "),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    folder(tmp_path, text)

    with pytest.raises(ConfigurationError) as refused:
        model_checks.check_model(str(tmp_path))

    assert str(tmp_path / FILE) in str(refused.value)
    assert said in str(refused.value)


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    folder(tmp_path, '{"defaults": {"é": 1}}', "latin-1")

    with pytest.raises(ConfigurationError, match="cannot be read as JSON"):
        model_checks.check_model(str(tmp_path))


def test_what_is_loaded_carries_them() -> None:
    loaded = checkpoint.load("builtin:demo", device=torch.device("cpu"), dtype=torch.float32)

    assert loaded.defaults.guidance == 2.0
