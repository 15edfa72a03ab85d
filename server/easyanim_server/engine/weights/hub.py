"""Models of Hugging Face, or of a mirror that the variable HF_ENDPOINT names, in the cache that its libraries share.

`huggingface_hub` begins a file anew in every process. Those that it keeps as LFS files, which are the weights, are
brought here before, so that they go on where they were cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from easyanim_server.engine.weights.download import Observe, RemoteFile, download, open_client


def large_files(model: str, revision: str | None, patterns: Sequence[str]) -> list[RemoteFile]:
    """A model's LFS files of those patterns, in the cache or not.

    Raises:
        Exception: of the library, where the Hub cannot be asked or has no such model.
    """
    api = HfApi()
    commit = api.model_info(model, revision=revision).sha
    found = []
    for entry in api.list_repo_tree(model, recursive=True, revision=commit):
        if isinstance(entry, RepoFile) and entry.lfs and any(fnmatch(entry.path, pattern) for pattern in patterns):
            url = hf_hub_url(model, entry.path, revision=commit, endpoint=constants.ENDPOINT)
            found.append(RemoteFile(entry.path, url, entry.lfs.size, entry.lfs.sha256))
    return found


def bring_large(model: str, files: Sequence[RemoteFile], observe: Observe) -> None:
    """Put files into the cache, where the library finds them and links them.

    Args:
        model: An id.
        files: Of `large_files`.
        observe: Progress.

    Raises:
        httpx.HTTPError: the Hub cannot be reached, or refuses.
        ConfigurationError: what came is not the file that was promised.
        OSError: the cache cannot be written.
    """
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "blobs"
    headers = build_hf_headers()
    with open_client() as client:
        for file in files:
            place = blobs / str(file.sha256)
            if place.exists():
                observe(file.size)
            else:
                download(client, file, place, observe, headers)
