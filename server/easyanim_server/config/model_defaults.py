"""What a loaded model is best asked for: guidance, steps and sizes of requests that leave them out.

They belong to the model: a folder in diffusers layout may have a file `easyanim.json` with them. Imports no torch, so
that the front can read the file of a folder before any worker is up.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from easyanim_server import catalog
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import GUIDANCE_RANGE, MAX_STEPS, Bucket
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.shape import Geometry

FILE = "easyanim.json"
"""In a model's folder, beside `model_index.json`: ``{"defaults": {...}}`` with some of `KEYS`."""

INDEX, CLASSES = "model_index.json", "EasyAnimate"
"""The file in which a folder names the class of its pipeline, and how names of this package's families begin."""

KEYS = ("guidance_scale", "step_count", "buckets")

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "models" / "demo"
"""Of ``builtin:demo``; comes with the package, and its README.md is the model's card."""


@cache
def expected(model: str) -> Capabilities:
    """What a model can be asked for by its name and its folder, as far as that can be told without a download.

    Args:
        model: As `Settings.model`; of a Hugging Face id what is published is returned.

    Raises:
        ConfigurationError: the folder's `easyanim.json` is damaged.
    """
    known, named = catalog.expected(model), catalog.find(model)
    if named is not None and named.origin == "made":
        return known
    packaged = named is not None and named.origin == "package"
    folder = DEMO_FOLDER if packaged else Path(model).expanduser()
    if named is None and _reads_t5(folder):
        known = catalog.EASYANIMATE_V5
    strange = named is None and _is_strange(folder)
    return replace(known, defaults=read(folder, known.defaults, None if strange else known.geometry))


def _reads_t5(folder: Path) -> bool:
    """Whether a folder is EasyAnimate V5's by its transformer's configuration; what is damaged is refused later."""
    try:
        config = json.loads((folder / "transformer/config.json").read_text(encoding="utf-8-sig"))
        return bool(config.get("text_embed_dim_t5"))
    except (OSError, ValueError, AttributeError):
        return False


def _is_strange(folder: Path) -> bool:
    """Whether a folder says that it is of a family of another distribution, whose shapes are known to that alone."""
    try:
        name = json.loads((folder / INDEX).read_text(encoding="utf-8-sig")).get("_class_name")
    except (OSError, ValueError, AttributeError):  # for whoever loads the model to say
        return False
    return isinstance(name, str) and not name.startswith(CLASSES)


def read(
    folder: Path,
    usual: ModelDefaults = catalog.EASYANIMATE_V51.defaults,
    geometry: Geometry | None = catalog.EASYANIMATE_V51.geometry,
) -> ModelDefaults:
    """Read a folder's `easyanim.json`.

    Args:
        folder: In which the file may be.
        usual: Values of what the file leaves out.
        geometry: Of the model, which the file's buckets have to fit; None where it is not known yet.

    Raises:
        ConfigurationError: the file is damaged; names file, key, value and what is allowed.
    """
    file = folder / FILE
    if not file.is_file():
        return usual
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # text of another encoding too
        raise ConfigurationError(f"{file} cannot be read as JSON: {error}") from error
    given = document.get("defaults", {}) if isinstance(document, dict) else None
    if not isinstance(given, dict):
        raise ConfigurationError(f'{file} must be an object such as {{"defaults": {{"guidance_scale": 6}}}}')
    if unknown := sorted(given.keys() - set(KEYS)):
        raise ConfigurationError(f"{file}: unknown key {unknown[0]!r} in defaults; known are {', '.join(KEYS)}")
    return replace(
        usual,
        guidance=float(_number(file, given, "guidance_scale", *GUIDANCE_RANGE, usual.guidance)),
        steps=int(_number(file, given, "step_count", 1, MAX_STEPS, usual.steps, whole=True)),
        buckets=_buckets(file, given["buckets"], geometry) if "buckets" in given else usual.buckets,
    )


def _number(
    file: Path, given: dict[str, Any], key: str, least: float, most: float, usual: float, *, whole: bool = False
) -> float:
    value = given.get(key, usual)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise ConfigurationError(f"{file}: {key} is {value!r}; must be {kind} from {least:g} to {most:g}")
    return value


def _buckets(file: Path, value: Any, geometry: Geometry | None) -> tuple[Bucket, ...]:
    try:
        found = tuple(Bucket.parse(name, geometry) for name in value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{file}: buckets is {value!r}: {error}") from error
    if isinstance(value, str) or not found or len(set(found)) < len(found):
        raise ConfigurationError(f"{file}: buckets is {value!r}; must be a list of different sizes such as 384x672x49")
    return found
