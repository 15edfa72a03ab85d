"""From a model's name to its modules: Hugging Face id, local folder, builtin:demo or tiny, synthetic:7b or 12b."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging as transformers_logging

from easyanim_server import catalog
from easyanim_server.catalog import DEMO, TINY
from easyanim_server.config import checks as preflight
from easyanim_server.config.checks import is_hosted, is_made_here
from easyanim_server.config.model_defaults import DEMO_FOLDER
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel
from easyanim_server.engine.devices import resolve_device
from easyanim_server.engine.families.easyanimate_v51 import builtin, positions
from easyanim_server.engine.families.easyanimate_v51.builtin import SYNTHETIC
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.family import EasyAnimateV51
from easyanim_server.engine.families.registry import recognise
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights import folder as folders
from easyanim_server.engine.weights.contents import check_safetensors, one_line
from easyanim_server.engine.weights.export import write
from easyanim_server.engine.weights.folder import CONFIG_NAMES, CONFIG_PATTERNS, weight_files
from easyanim_server.engine.weights.index import CheckpointIndex

log = logging.getLogger(__name__)

# By themselves these libraries write to stderr, past whatever form the program's log has.
for _library in (diffusers_logging, transformers_logging):
    _library.disable_default_handler()
    _library.enable_propagation()
# Diffusers warns of a key that published configurations have and that its own pipeline reads, and of ours.
logging.getLogger("diffusers.configuration_utils").addFilter(
    lambda record: not any(key in record.getMessage() for key in ("cache_mag_vae", positions.KEY))
)


def find(model: str, revision: str | None = None) -> CheckpointIndex:
    """Find a model by its name. Of a Hugging Face id configurations are downloaded, and nothing else.

    Args:
        model: A local folder in diffusers layout, a Hugging Face id, ``builtin:demo``, ``builtin:tiny``,
            ``synthetic:7b`` or ``synthetic:12b``. A folder of that name goes before an id.
        revision: Branch, tag or commit of a Hugging Face id.

    Raises:
        UnsupportedModel: there is no such model; says what to use instead.
        ConfigurationError: a revision of something that has none, or the model cannot be downloaded.
    """
    preflight.check_model(model, revision)
    known = catalog.find(model)
    if known is not None and known.origin == "made":
        return CheckpointIndex(model, None)
    if known is not None and known.origin == "package":
        return CheckpointIndex(model, _demo())
    hosted = is_hosted(model)
    return CheckpointIndex(
        model, _fetch(model, revision, CONFIG_PATTERNS, CONFIG_NAMES) if hosted else preflight.local_folder(model)
    )


def complete(index: CheckpointIndex, files: Sequence[str], revision: str | None = None) -> CheckpointIndex:
    """Download files of weights where the model is hosted; of other models they are there, or `load` misses them.

    Raises:
        ConfigurationError: they cannot be downloaded.
    """
    if index.folder is None or not is_hosted(index.name):
        return index
    return replace(index, folder=_fetch(index.name, revision, [*CONFIG_PATTERNS, *files], files))


def load(
    model: str, *, device: torch.device, dtype: torch.dtype, revision: str | None = None, on_host: bool = False
) -> Components:
    """Load a model, downloading it where needed.

    Args:
        model: As `find` takes it.
        device: Where the networks compute.
        dtype: Of their weights.
        revision: As `find` takes it.
        on_host: Whether weights stay in host memory, from where a `Placement` brings them to the device.

    Raises:
        UnsupportedModel: there is no such model, or this server cannot run it; says what to use instead.
        ConfigurationError: as `find`.
    """
    index = find(model, revision)
    family = EasyAnimateV51()
    recognise(index, [family])  # before gigabytes are downloaded
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
    if model != TINY and model not in SYNTHETIC:
        raise UnsupportedModel(f"{model} cannot be exported; {', '.join([TINY, *SYNTHETIC])} can")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not an empty folder; nothing was written")
    if model == TINY:
        builtin.tiny(device=torch.device("cpu"), dtype=torch.float32).save_pretrained(folder)
        return
    device = device or resolve_device("auto")
    modules = builtin.synthetic(SYNTHETIC[model], device=device, dtype=torch.bfloat16)
    write(modules, builtin.synthetic_text_config(), folder)


def _demo() -> Path:
    """The folder of the demo's model, which has its weights."""
    described = (DEMO_FOLDER / "text_encoder" / "config.json").is_file()
    wanted = weight_files(DEMO_FOLDER) if described else ["text_encoder/config.json"]
    absent = [name for name in wanted if not (DEMO_FOLDER / name).is_file()]
    if absent:
        raise UnsupportedModel(f"this installation lacks the weights of {DEMO}: {', '.join(absent)} in {DEMO_FOLDER}")
    return DEMO_FOLDER


def inspect(model: str, revision: str | None = None) -> list[str]:
    """Read every header that `load` will, of files on this machine; nothing is downloaded and no weight is read.

    Returns:
        Files of a Hugging Face id that `load` has to download before.

    Raises:
        UnsupportedModel: as `load`.
    """
    if is_made_here(model) and model != DEMO:
        return []
    folder = (
        cached_folder(model, revision)
        if is_hosted(model)
        else _demo()
        if model == DEMO
        else preflight.local_folder(model)
    )
    if folder is None:
        return CONFIG_NAMES
    absent = _absent(folder, CONFIG_NAMES) if is_hosted(model) else []
    if absent:
        return absent
    modules = folders.outline(folder, model)
    wanted = weight_files(folder)
    absent = _absent(folder, wanted) if is_hosted(model) else []
    if absent:
        for name in sorted({*wanted} - {*absent}):
            check_safetensors(folder / name)
        return absent
    folders.check_weights(modules, folder)
    return []


def cached_folder(model: str, revision: str | None = None) -> Path | None:
    """Where the cache has files of a Hugging Face id, complete or not; None where it has none."""
    cache = constants.HF_HUB_CACHE  # as it is now: the default of the call is as it was when it was imported
    found = try_to_load_from_cache(model, "model_index.json", cache_dir=cache, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _absent(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _fetch(model: str, revision: str | None, patterns: list[str], needed: Sequence[str]) -> Path:
    """Download files, or take them from the cache where the Hub cannot be reached, or is not what answers.

    Args:
        model: A Hugging Face id.
        revision: As in `load`.
        patterns: Of the files to download.
        needed: Files without which the cache is not complete.
    """
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # httpx, the disk, the storage backend: each fails in its own types
        folder = cached_folder(model, revision)
        absent = _absent(folder, needed) if folder else []
        if folder is None or absent:
            raise _refusal(model, revision, error, absent) from error
        log.warning("%s is taken from the cache, since the Hub cannot be asked: %s", model, one_line(error))
        return folder


def _refusal(model: str, revision: str | None, error: Exception, absent: Sequence[str]) -> EasyAnimError:
    """Why a model can be had neither from the Hub nor from the cache."""
    if isinstance(error, GatedRepoError):
        return ConfigurationError(f"{model} asks for consent: accept its terms on huggingface.co and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return UnsupportedModel(f"Hugging Face has no model {model}, or HF_TOKEN may not see it")
    if isinstance(error, RevisionNotFoundError):
        return UnsupportedModel(f"{model} has no revision {revision!r}")
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return ConfigurationError(
            f"{model} cannot be kept: {error.filename}: {error.strerror}; set HF_HOME to a folder that can be written"
        )
    lacking = f", which lacks {', '.join(absent[:3])}{' and more' if len(absent) > 3 else ''}" if absent else ""
    cache = f"{model} is not complete in the cache {constants.HF_HUB_CACHE}{lacking}"
    if constants.is_offline_mode():
        return ConfigurationError(f"HF_HUB_OFFLINE is set, and {cache}")
    hub = constants.ENDPOINT + (" (HF_ENDPOINT)" if os.environ.get("HF_ENDPOINT") else "")
    if isinstance(error, ValueError):  # JSON was awaited
        return ConfigurationError(
            f"{hub} does not answer as Hugging Face does; is it the login page of a network or proxy? And {cache}"
        )
    if isinstance(error, LocalEntryNotFoundError):
        said = one_line(error.__cause__) if isinstance(error.__cause__, Exception) else "no answer"
        return ConfigurationError(f"Hugging Face cannot be reached at {hub} ({said}), and {cache}")
    return ConfigurationError(f"{model} cannot be downloaded from {hub}: {one_line(error)}; and {cache}")
