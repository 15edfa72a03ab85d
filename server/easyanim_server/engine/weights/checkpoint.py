"""From a model's name to its modules: an id of Hugging Face or ModelScope, a local folder, builtin:* or synthetic:*."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants
from transformers.utils import logging as transformers_logging

from easyanim_server import catalog
from easyanim_server.catalog import DEMO
from easyanim_server.config import model_checks
from easyanim_server.config.model_checks import is_hosted
from easyanim_server.config.model_defaults import DEMO_FOLDER
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.devices import resolve_device
from easyanim_server.engine.families.registry import recognise
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights import hub, identity, modelscope
from easyanim_server.engine.weights.contents import check_safetensors
from easyanim_server.engine.weights.convert import convert as to_diffusers
from easyanim_server.engine.weights.download import Observe, unobserved
from easyanim_server.engine.weights.index import CheckpointIndex
from easyanim_server.engine.weights.layout import CONFIG_NAMES, CONFIG_PATTERNS

log = logging.getLogger(__name__)

# By themselves these libraries write to stderr, past whatever form the program's log has.
for _library in (diffusers_logging, transformers_logging):
    _library.disable_default_handler()
    _library.enable_propagation()


def find(model: str, revision: str | None = None) -> CheckpointIndex:
    """Find a model by its name. Of a Hugging Face id configurations are downloaded, and nothing else.

    Args:
        model: A local folder in either layout, an id of Hugging Face or ModelScope, ``builtin:demo``, ``builtin:tiny``,
            ``synthetic:7b`` or ``synthetic:12b``. A folder of that name goes before an id.
        revision: Branch, tag or commit of a Hugging Face id.

    Raises:
        UnsupportedModel: there is no such model; says what to use instead.
        ConfigurationError: a revision of something that has none, or the model cannot be downloaded.
    """
    model_checks.check_model(model, revision)
    known = catalog.find(model)
    if known is not None and known.origin == "made":
        return CheckpointIndex(model, None)
    if known is not None and known.origin == "package":
        return CheckpointIndex(model, _demo())
    hosted = is_hosted(model)
    index = CheckpointIndex(
        model, _fetch(model, revision, CONFIG_PATTERNS, CONFIG_NAMES) if hosted else model_checks.local_folder(model)
    )
    identity.check(index)
    return index


def complete(
    index: CheckpointIndex,
    files: Sequence[str],
    revision: str | None = None,
    started: Callable[[int], None] = unobserved,
    observe: Observe = unobserved,
) -> CheckpointIndex:
    """Download files of weights where the model is hosted; of other models they are there, or `load` misses them.

    Raises:
        ConfigurationError: they cannot be downloaded.
    """
    if index.folder is None or not is_hosted(index.name):
        return index
    whole = replace(index, folder=_fetch(index.name, revision, [*CONFIG_PATTERNS, *files], files, started, observe))
    identity.check(whole)
    return whole


def load(
    model: str, *, device: torch.device, dtype: torch.dtype, revision: str | None = None, on_host: bool = False
) -> Any:
    """Load a model's networks alone, downloading them where needed; for measurements that take them apart.

    Args:
        model: As `find` takes it.
        device: Where the networks compute.
        dtype: Of their weights.
        revision: As `find` takes it.
        on_host: Whether weights stay in host memory, from where a `Placement` brings them to the device.

    Returns:
        What the model's family gives as its `components`.

    Raises:
        UnsupportedModel: there is no such model, or this server cannot run it; says what to use instead.
        ConfigurationError: as `find`.
    """
    index = find(model, revision)
    family = recognise(index)  # before gigabytes are downloaded
    index = complete(index, family.files(index), revision)
    return family.components(index, device=device, dtype=dtype, on_host=on_host)


def outline(model: str, dtype: torch.dtype, revision: str | None = None) -> Outline:
    """Measure a model in a compute type, without its weights.

    Raises:
        UnsupportedModel: as `load`.
        ConfigurationError: as `load`.
    """
    index = find(model, revision)
    return recognise(index).outline(index, dtype)


def like_published(model: str) -> str:
    """The synthetic model of the shape of a published one, by its name; other models as they are."""
    known = catalog.find(model)
    return known.like or model if known else model


def export(model: str, folder: Path, device: torch.device | None = None) -> None:
    """Write a model that is made here as a diffusers folder, which `load` reads back bit by bit.

    Stock diffusers reads ``builtin:tiny`` as well; synthetic models have a text encoder without its last layer.

    Args:
        model: ``builtin:tiny``, or ``synthetic:7b`` or ``synthetic:12b``, in bfloat16.
        folder: Where to; made if absent.
        device: Where synthetic weights are drawn; on the CPU it takes minutes. By default CUDA where there is one.

    Raises:
        UnsupportedModel: `model` is another one.
        ConfigurationError: `folder` is not empty.
    """
    known = catalog.find(model)
    if known is None or known.origin != "made":
        made = ", ".join(item.name for item in catalog.MODELS if item.origin == "made")
        raise UnsupportedModel(f"{model} cannot be exported; {made} can")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not an empty folder; nothing was written")
    index = CheckpointIndex(model, None)
    recognise(index).export(index, folder, device or resolve_device("auto"))


def convert(model: str, target: Path, revision: str | None = None) -> None:
    """Write a model of its authors' layout as a diffusers folder, which `load` reads back to the same bits.

    Args:
        model: A folder or an id, as in `load`.
        target: Where to; there must be nothing.
        revision: As in `load`.

    Raises:
        UnsupportedModel: this server cannot run the model, or it is in diffusers' layout already.
        ConfigurationError: there is something at `target`, or the model cannot be had.
        OSError: it cannot be written.
    """
    if model_checks.is_made_here(model):
        raise UnsupportedModel(f"{model} is no model in EasyAnimate's own layout; `export` writes it")
    index = find(model, revision)
    index = complete(index, recognise(index).files(index), revision)
    inspect(model, revision)
    if index.folder is None or identity.identity_of(index) is None:
        raise UnsupportedModel(f"{model} is no model of EasyAnimate; it has no other layout")
    to_diffusers(index.folder, model, target)


def _demo() -> Path:
    """The folder of the demo's model, which has its weights."""
    index = CheckpointIndex(DEMO, DEMO_FOLDER)
    described = index.has("text_encoder/config.json")
    wanted = recognise(index).files(index) if described else ["text_encoder/config.json"]
    if absent := hub.absent_of(DEMO_FOLDER, wanted):
        raise UnsupportedModel(f"this installation lacks the weights of {DEMO}: {', '.join(absent)} in {DEMO_FOLDER}")
    return DEMO_FOLDER


def inspect(model: str, revision: str | None = None) -> list[str]:
    """Read every header that `load` will, of files on this machine; nothing is downloaded and no weight is read.

    Returns:
        Files of a Hugging Face id that `load` has to download before.

    Raises:
        UnsupportedModel: as `load`.
    """
    known = catalog.find(model)
    if known is not None and known.origin == "made":
        return []
    hosted = is_hosted(model)
    if hosted:
        folder = cached_folder(model, revision)
        if absent := CONFIG_NAMES if folder is None else hub.absent_of(folder, CONFIG_NAMES):
            return absent
    else:
        folder = _demo() if model == DEMO else model_checks.local_folder(model)
    index = CheckpointIndex(model, folder)
    identity.check(index)
    family = recognise(index)
    wanted = family.files(index)
    if hosted and folder is not None and (absent := hub.absent_of(folder, wanted)):
        for name in sorted({*wanted} - {*absent}):
            check_safetensors(folder / name)
        return absent
    family.check(index)
    return []


def cached_folder(model: str, revision: str | None = None) -> Path | None:
    """Where this machine keeps files of a hosted model, complete or not; None where it has none."""
    if not modelscope.is_modelscope(model):
        return hub.cached_folder(model, revision)
    folder = modelscope.folder_of(model, revision)
    return folder if (folder / "model_index.json").is_file() else None


def cache_of(model: str, revision: str | None = None) -> tuple[Path, str]:
    """Where files of a hosted model are kept on this machine, and the variable that moves that place."""
    if modelscope.is_modelscope(model):
        return modelscope.folder_of(model, revision), "MODELSCOPE_CACHE"
    return Path(constants.HF_HUB_CACHE), "HF_HOME"


def host_of(model: str) -> str:
    """The name of the host of a model that is downloaded."""
    return "ModelScope" if modelscope.is_modelscope(model) else "Hugging Face"


def download(
    model: str,
    revision: str | None,
    started: Callable[[int], None] = unobserved,
    observe: Observe = unobserved,
) -> Path:
    """Bring all that `load` needs of a hosted model; what is here is not brought again.

    Configurations come first, so that a model that cannot run costs no gigabytes.

    Args:
        model: An id of Hugging Face, or of ModelScope with ``modelscope:`` before it.
        revision: As in `load`.
        started: Is called with the bytes of the weights, here or not, where the host can be asked.
        observe: Is called with the bytes that have come, those that were here among them.

    Raises:
        UnsupportedModel: as `load`.
        ConfigurationError: as `load`.
    """
    index = find(model, revision)
    files = recognise(index).files(index)
    folder = complete(index, files, revision, started, observe).folder
    assert folder is not None  # models that are made here are not hosted
    return folder


def _fetch(
    model: str,
    revision: str | None,
    patterns: list[str],
    needed: Sequence[str],
    started: Callable[[int], None] = unobserved,
    observe: Observe = unobserved,
) -> Path:
    """Download files from the host of a model, or take them as they are here where it cannot be asked."""
    bring = modelscope.bring if modelscope.is_modelscope(model) else hub.bring
    return bring(model, revision, patterns, needed, started, observe)
