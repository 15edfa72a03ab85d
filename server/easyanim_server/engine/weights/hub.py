"""Models of Hugging Face, or of a mirror that the variable HF_ENDPOINT names, in the cache that its libraries share.

`huggingface_hub` begins a file anew in every process. Those that it keeps as LFS files, which are the weights, are
brought here before, so that they go on where they were cut off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel
from easyanim_server.engine.weights.contents import one_line
from easyanim_server.engine.weights.download import Observe, RemoteFile, download_all, unobserved

log = logging.getLogger(__name__)


def cached_folder(model: str, revision: str | None = None) -> Path | None:
    """Where the cache has files of an id, complete or not; None where it has none."""
    cache = constants.HF_HUB_CACHE  # as it is now: the default of the call is as it was when it was imported
    found = try_to_load_from_cache(model, "model_index.json", cache_dir=cache, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def files(model: str, revision: str | None, patterns: Sequence[str]) -> list[RemoteFile]:
    """A model's LFS files of those patterns, in the cache or not.

    Raises:
        Exception: of the library, where the Hub cannot be asked or has no such model.
    """
    api = HfApi()
    commit = api.model_info(model, revision=revision or constants.DEFAULT_REVISION).sha
    found = []
    for entry in api.list_repo_tree(model, recursive=True, revision=commit):
        if isinstance(entry, RepoFile) and entry.lfs and any(fnmatch(entry.path, pattern) for pattern in patterns):
            url = hf_hub_url(model, entry.path, revision=commit, endpoint=constants.ENDPOINT)
            found.append(RemoteFile(entry.path, url, entry.lfs.size, entry.lfs.sha256))
    return found


def bring(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    needed: Sequence[str],
    started: Callable[[int], None] = unobserved,
    observe: Observe = unobserved,
) -> Path:
    """Download files, or take them from the cache where the Hub cannot be reached, or is not what answers.

    Args:
        model: An id.
        revision: Branch, tag or commit.
        patterns: Of the files to download.
        needed: Files without which the cache is not complete.
        started: Is called with the bytes of the LFS files among them, once they are known.
        observe: Progress of these.

    Raises:
        UnsupportedModel: there is no such model or revision.
        ConfigurationError: the model can be had neither from the Hub nor from the cache.
    """
    try:
        if not constants.is_offline_mode() and any(name.endswith(".safetensors") for name in needed):
            wanted = files(model, revision, patterns)
            started(sum(file.size for file in wanted))
            _bring_large(model, wanted, observe)
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # httpx, the disk, the storage backend: each fails in its own types
        folder = cached_folder(model, revision)
        absent = absent_of(folder, needed) if folder else []
        if folder is None or absent:
            raise _refusal(model, revision, error, absent) from error
        log.warning("%s is taken from the cache, since the Hub cannot be asked: %s", model, one_line(error))
        return folder


def absent_of(folder: Path, names: Sequence[str]) -> list[str]:
    """Names of files that a folder does not have."""
    return [name for name in names if not (folder / name).is_file()]


def _bring_large(model: str, wanted: Sequence[RemoteFile], observe: Observe) -> None:
    """Put files into the cache, where the library finds them and links them."""
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "blobs"
    missing = []
    for file in wanted:
        place = blobs / str(file.sha256)
        if place.exists():
            observe(file.size)
        else:
            missing.append((file, place))
    download_all(missing, observe, build_hf_headers())


def _refusal(model: str, revision: str | None, error: Exception, absent: Sequence[str]) -> EasyAnimError:
    """Why a model can be had neither from the Hub nor from the cache."""
    if isinstance(error, GatedRepoError):
        return ConfigurationError(f"{model} asks for consent: accept its terms on huggingface.co and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return UnsupportedModel(f"Hugging Face has no model {model}, or HF_TOKEN may not see it")
    if isinstance(error, RevisionNotFoundError):
        return UnsupportedModel(f"{model} has no revision {revision!r}")
    if isinstance(error, ConfigurationError):
        return error
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
    if isinstance(error, (LocalEntryNotFoundError, httpx.TransportError)):
        cause = error if isinstance(error, httpx.TransportError) else error.__cause__
        said = one_line(cause) if isinstance(cause, Exception) else "no answer"
        return ConfigurationError(f"Hugging Face cannot be reached at {hub} ({said}), and {cache}")
    return ConfigurationError(f"{model} cannot be downloaded from {hub}: {one_line(error)}; and {cache}")
