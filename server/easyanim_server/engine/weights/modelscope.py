"""Models of modelscope.cn, over its plain HTTP API; its own package is not needed.

Files are kept where that package keeps them, so that each finds what the other has downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

import httpx
from huggingface_hub import constants

from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel
from easyanim_server.domain.published import MODELSCOPE as PREFIX
from easyanim_server.engine.weights.contents import one_line
from easyanim_server.engine.weights.download import Observe, RemoteFile, download_all, open_client, unobserved

ENDPOINT = "https://www.modelscope.cn"
REVISION = "master"


def is_modelscope(model: str) -> bool:
    """Whether a model's name is one of ModelScope's."""
    return model.startswith(PREFIX)


def endpoint() -> str:
    """Where ModelScope is: the variable MODELSCOPE_ENDPOINT, or MODELSCOPE_DOMAIN as its own package has it."""
    domain = os.environ.get("MODELSCOPE_DOMAIN")
    return (os.environ.get("MODELSCOPE_ENDPOINT") or (f"https://{domain}" if domain else ENDPOINT)).rstrip("/")


def folder_of(model: str, revision: str | None = None) -> Path:
    """Where a model's files are kept, whether it is there or not."""
    owner, name = model.removeprefix(PREFIX).split("/")
    cache = Path(os.path.expanduser(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub"))
    kept = name.replace(".", "___") + (f"@{quote(revision, safe='')}" if revision not in (None, REVISION) else "")
    return cache / "models" / owner / kept


def files(model: str, revision: str | None, patterns: Sequence[str]) -> list[RemoteFile]:
    """A model's files of those patterns, here or not.

    Raises:
        httpx.HTTPError: ModelScope cannot be asked.
        UnsupportedModel: there is no such model or revision.
    """
    if constants.is_offline_mode():
        raise httpx.ConnectError("HF_HUB_OFFLINE is set")
    with open_client() as client:
        return [file for file in _files(client, model, revision) if _fits(file.path, patterns)]


def bring(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    needed: Sequence[str],
    started: Callable[[int], None] = unobserved,
    observe: Observe = unobserved,
) -> Path:
    """Download a model's files that are not there, or take them as they are where ModelScope cannot be asked.

    Args:
        model: With `PREFIX`.
        revision: Branch or tag; by default `REVISION`.
        patterns: Of the files.
        needed: Files without which the model is not complete.
        started: Is called with the bytes of all of them, once they are known.
        observe: Progress.

    Raises:
        UnsupportedModel: there is no such model or revision.
        ConfigurationError: ModelScope cannot be reached, or gives other bytes than it promised.
    """
    folder = folder_of(model, revision)
    try:
        wanted = files(model, revision, patterns)
        started(sum(file.size for file in wanted))
        missing = []
        for file in wanted:
            place = folder / file.path
            if place.is_file() and place.stat().st_size == file.size:
                observe(file.size)
                continue
            place.unlink(missing_ok=True)
            missing.append((file, place))
        download_all(missing, observe)
    except (httpx.HTTPError, OSError) as error:
        absent = [name for name in needed if not (folder / name).is_file()]
        if absent:
            raise _refusal(model, folder, error, absent) from error
    return folder


def _files(client: httpx.Client, model: str, revision: str | None) -> list[RemoteFile]:
    name, revision = model.removeprefix(PREFIX), revision or REVISION
    api = f"{endpoint()}/api/v1/models/{name}/repo"
    answer = client.get(f"{api}/files?{urlencode({'Revision': revision, 'Recursive': 'true'})}")
    if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN, httpx.codes.UNAUTHORIZED):
        raise UnsupportedModel(f"ModelScope has no public model {name} with a revision {revision!r}")
    answer.raise_for_status()
    try:
        entries = answer.json()["Data"]["Files"]
        return [
            RemoteFile(
                path=_inside(entry["Path"]),
                url=f"{api}?{urlencode({'Revision': revision, 'FilePath': entry['Path']})}",
                size=int(entry["Size"]),
                sha256=entry.get("Sha256") or None,
            )
            for entry in entries
            if entry.get("Type") != "tree"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{endpoint()} does not answer as ModelScope does ({one_line(error)}); is it the login page of a network?"
        ) from error


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"a file {path!r} outside its model")
    return path


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _refusal(model: str, folder: Path, error: Exception, absent: Sequence[str]) -> EasyAnimError:
    lacking = f"{', '.join(absent[:3])}{' and more' if len(absent) > 3 else ''}"
    if isinstance(error, OSError) and error.filename is not None:
        return ConfigurationError(
            f"{model} cannot be kept: {error.filename}: {error.strerror}; set MODELSCOPE_CACHE to a folder that can "
            "be written"
        )
    return ConfigurationError(
        f"{model} is not complete here: ModelScope cannot be asked at {endpoint()} ({one_line(error)}), and {folder} "
        f"lacks {lacking}"
    )
