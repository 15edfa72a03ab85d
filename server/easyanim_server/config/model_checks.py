"""Checks the name of a model, and its folder, before anything is loaded. Binds and downloads nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from easyanim_server.catalog import DEFAULT_MODEL, MADE_HERE
from easyanim_server.config import model_defaults as modeldefaults
from easyanim_server.domain import published
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel

_PREFIXES = ("builtin:", "synthetic:")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_made_here(model: str) -> bool:
    """Whether a name is meant for one of `MADE_HERE`; there need not be such a model."""
    return model.startswith(_PREFIXES)


def is_hosted(model: str) -> bool:
    """Whether a model is to come from Hugging Face, or from ModelScope where ``modelscope:`` stands before its id."""
    return not is_made_here(model) and not _is_path(model)


def check_model(model: str, revision: str | None = None) -> None:
    """Refuse a model by its name or, where it is a folder, for want of the file that says what it is.

    Args:
        model: As `Settings.model`.
        revision: As `Settings.revision`.

    Raises:
        UnsupportedModel: there is no such model, or this server cannot run it; says what to use instead.
        ConfigurationError: there is a revision, and the model has none; or its folder's `easyanim.json` is damaged.
    """
    if revision is not None and not is_hosted(model):
        raise ConfigurationError(
            f"revision {revision!r} applies to ids of Hugging Face and ModelScope, and {model} is none"
        )
    if is_made_here(model):
        if model not in MADE_HERE:
            raise UnsupportedModel(f"there is no model {model}; known are {', '.join(MADE_HERE)}")
    elif _is_path(model):
        folder = local_folder(model)
        if not folder.is_dir():
            raise UnsupportedModel(f"model {model} is no folder; give a model's folder, or a Hugging Face id")
        if not (folder / "model_index.json").is_file():
            raise UnsupportedModel(
                f"model {model} has no model_index.json, so it is no model's folder; use {DEFAULT_MODEL} instead"
            )
        modeldefaults.expected(model)
    elif not _HUB_ID.fullmatch(model.removeprefix(published.MODELSCOPE)):
        kind = (
            "no id of ModelScope"
            if model.startswith(published.MODELSCOPE)
            else "neither a folder nor a Hugging Face id"
        )
        raise UnsupportedModel(f"model {model!r} is {kind}; use an id such as {DEFAULT_MODEL}")
    else:
        _refuse_published(model)


def local_folder(model: str) -> Path:
    """The folder that a model's name means.

    Raises:
        UnsupportedModel: it begins with the home of a user who has none.
    """
    try:
        return Path(model).expanduser()
    except RuntimeError as error:
        raise UnsupportedModel(f"model {model} is no folder: {error}") from error


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or (model != "" and os.path.exists(model))


def _refuse_published(model: str) -> None:
    """Refuse what the authors publish and this server cannot run, by name."""
    sentence = published.refusal(model)
    if sentence:
        raise UnsupportedModel(f"{model} {sentence}")
