"""What a loaded model is best asked for: guidance, steps and sizes of requests that leave them out.

They belong to the model: a folder in diffusers layout may have a file `easyanim.json` with them. Imports no torch, so
that the front can read the file of a folder before any worker is up.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from easyanim_server.domain.defaults import PUBLISHED, TINY_BUCKETS, ModelDefaults, parsed
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import GUIDANCE_RANGE, MAX_STEPS, Bucket

FILE = "easyanim.json"
"""In a model's folder, beside `model_index.json`: ``{"defaults": {...}}`` with some of `KEYS`."""

KEYS = ("guidance_scale", "step_count", "buckets")

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "models" / "demo"
"""Of ``builtin:demo``; comes with the package, and its README.md is the model's card."""


@cache
def of(model: str) -> ModelDefaults:
    """Find the defaults of a model by its name, as far as they can be told without a download.

    Args:
        model: As `Settings.model`; of a Hugging Face id the published ones are returned.

    Raises:
        ConfigurationError: the folder's `easyanim.json` is damaged.
    """
    if model == "builtin:tiny":
        return ModelDefaults(buckets=parsed(TINY_BUCKETS))
    if model == "builtin:demo":
        return read(DEMO_FOLDER)
    return PUBLISHED if model.startswith(("builtin:", "synthetic:")) else read(Path(model).expanduser())


def read(folder: Path) -> ModelDefaults:
    """Read a folder's `easyanim.json`; without one, the published models' defaults.

    Raises:
        ConfigurationError: the file is damaged; names file, key, value and what is allowed.
    """
    file = folder / FILE
    if not file.is_file():
        return PUBLISHED
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # text of another encoding too
        raise ConfigurationError(f"{file} cannot be read as JSON: {error}") from error
    given = document.get("defaults", {}) if isinstance(document, dict) else None
    if not isinstance(given, dict):
        raise ConfigurationError(f'{file} must be an object such as {{"defaults": {{"guidance_scale": 6}}}}')
    if unknown := sorted(given.keys() - set(KEYS)):
        raise ConfigurationError(f"{file}: unknown key {unknown[0]!r} in defaults; known are {', '.join(KEYS)}")
    return ModelDefaults(
        guidance=float(_number(file, given, "guidance_scale", *GUIDANCE_RANGE, PUBLISHED.guidance)),
        steps=int(_number(file, given, "step_count", 1, MAX_STEPS, PUBLISHED.steps, whole=True)),
        buckets=_buckets(file, given["buckets"]) if "buckets" in given else PUBLISHED.buckets,
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


def _buckets(file: Path, value: Any) -> tuple[Bucket, ...]:
    try:
        found = tuple(Bucket.parse(name) for name in value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{file}: buckets is {value!r}: {error}") from error
    if isinstance(value, str) or not found or len(set(found)) < len(found):
        raise ConfigurationError(f"{file}: buckets is {value!r}; must be a list of different sizes such as 384x672x49")
    return found
