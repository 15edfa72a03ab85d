"""What compilers made, kept across restarts and machines: one folder for all of them, by everything it depends on."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import platform
import re
import tarfile
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch._dynamo.utils import counters

from easyanim_server.config import environment
from easyanim_server.config.processor import processor
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.engine.cache.code_digest import code_digest

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LIBRARIES = ("diffusers", "triton", "flash-attn", "flash-attn-4", "sageattention")
"""Beside torch, those whose code runs in a prediction."""

MEBIBYTE = 2**20

TENSORRT = "tensorrt"
"""The part of the version's folder that holds TensorRT engines."""

REFERENCES = "references"
"""The part of it that holds what paths are compared with."""

CHOICES = "choices"
"""The part of it that holds what was measured to choose by."""

_place: Path | None = None
"""The folder in use."""

_engines = {True: 0, False: 0}
"""TensorRT engines that were found, and that were built."""


@dataclass(frozen=True)
class Lookups:
    """How often compiled code was found since the process began."""

    hits: int
    misses: int


def default_folder() -> Path:
    """Where caches are kept when nothing else is said; see `environment.cache_folder`."""
    return environment.cache_folder()


def version_folder(folder: Path, device: torch.device) -> Path:
    """The part of `folder` that this device, these libraries and this code of ours may use.

    Shapes of model and buckets are in the compilers' own keys; what they do not see is here.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    facts = [name, torch.__version__, str(torch.version.cuda), platform.python_version(), *map(_version, LIBRARIES)]
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        facts += [str(torch.cuda.get_device_capability(device)), str(cudnn)]
    else:
        facts.append(processor())
    digest = hashlib.sha256("\n".join([*facts, code_digest()]).encode())
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return folder / f"{slug}-torch{torch.__version__.partition('+')[0]}-{digest.hexdigest()[:12]}"


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"no {library}"


def use(folder: Path | None, device: torch.device) -> Path:
    """Make all compilers keep what they compile in the version's folder; returns it.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    place = version_folder(folder or default_folder(), device)
    try:
        for variable, part in (
            ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
            ("TRITON_CACHE_DIR", "triton"),
            ("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", "cute"),
        ):
            (place / part).mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(place / part)  # read when something is looked up, or imported
        os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"] = "1"
        for part in (TENSORRT, REFERENCES, CHOICES):
            (place / part).mkdir(exist_ok=True)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise ConfigurationError(f"cache_dir {str(folder or place.parent)!r} cannot be written: {reason}") from error
    global _place
    _place = place
    return place


def part(name: str) -> Path | None:
    """A part of the folder in use; None where no cache is."""
    return _place / name if _place is not None else None


def put(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file at once, for another server may be reading it or writing the same.

    A disk that takes no more costs the next start its time, and this one nothing.

    Args:
        file: Which; its folder is made if absent.
        write: Writes the content to the path that it is given.
    """
    draft = file.with_suffix(f".{uuid.uuid4().hex[:8]}")  # servers in containers all have the same process number
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        draft.replace(file)
    except (OSError, RuntimeError, SafetensorError) as error:
        log.warning("%s cannot be written: %s", file, error)
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def once(
    question: str, measure: Callable[[], Answer], lasting: Callable[[Answer], bool] = lambda answer: True
) -> Answer:
    """What was measured at an earlier start, where a cache is in use, or now.

    Every start then chooses alike, for which choice is made shows in a video's last bits.

    Args:
        question: What is measured, with everything that the answer depends on beside device and versions.
        measure: Gives the answer, of JSON's types.
        lasting: Whether an answer is one to keep, or is to be measured again at the next start.
    """
    folder = part(CHOICES)
    if folder is None:
        return measure()
    file = folder / f"{hashlib.sha256(question.encode()).hexdigest()[:24]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept: Answer = json.loads(file.read_text())["answer"]
        return kept
    answer = measure()
    if lasting(answer):
        text = json.dumps({"question": question, "answer": answer}, indent=1)
        put(file, lambda draft: draft.write_text(text))
    return answer


def note(hit: bool) -> None:
    """Count a TensorRT engine that was found, or built."""
    _engines[hit] += 1


def lookups() -> Lookups:
    """Hits and misses so far, in Inductor's cache of compiled graphs and among TensorRT engines."""
    found = counters["inductor"]
    return Lookups(
        hits=found["fxgraph_cache_hit"] + _engines[True], misses=found["fxgraph_cache_miss"] + _engines[False]
    )


def remember(model: str, facts: Sequence[dict[str, Any]]) -> None:
    """Note how a model's buckets are served, where a cache is in use; replaces what was noted of it before."""
    if _place is not None:
        noted = {"model": model, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "buckets": list(facts)}
        put(_notes(_place, model), lambda draft: draft.write_text(json.dumps(noted, indent=1)))


def remembered(model: str, place: Path | None = None) -> dict[str, Any]:
    """What was noted of a model last: its time and buckets; empty if nothing was.

    Args:
        model: As in `remember`.
        place: A version's folder; by default the one in use.
    """
    place = place or _place
    try:
        noted: dict[str, Any] = json.loads(_notes(place, model).read_text()) if place else {}
    except (OSError, ValueError):
        return {}
    return noted


def _notes(place: Path, model: str) -> Path:
    return place / f"served-{hashlib.sha256(model.encode()).hexdigest()[:12]}.json"


def pack(folder: Path | None, device: torch.device, file: Path) -> int:
    """Write this version's cache into one file; returns how many files it holds.

    Raises:
        ConfigurationError: there is nothing to pack yet.
    """
    place = version_folder(folder or default_folder(), device)
    files = sorted(item for item in place.rglob("*") if item.is_file())
    if not files:
        raise ConfigurationError(f"there is no cache in {place} yet; fill it with `easyanim-server warm`")
    with tarfile.open(file, "w:gz") as archive:
        for item in files:
            archive.add(item, item.relative_to(place.parent))
    return len(files)


def unpack(folder: Path | None, device: torch.device, file: Path) -> int:
    """Add a packed cache to the folder; returns how many files are of use to this version on this device.

    Raises:
        ConfigurationError: the file is not a packed cache, or made for another device, torch or version of easyanim.
    """
    place = version_folder(folder or default_folder(), device)
    if not file.is_file():
        raise ConfigurationError(f"{str(file)!r} is not a file; `easyanim-server cache export` writes one")
    try:
        with gzip.open(file) as whole:  # its checksum stands at the end, and is to be known before anything is written
            while whole.read(MEBIBYTE):
                pass
        with tarfile.open(file, "r:gz") as archive:
            names = [member.name for member in archive.getmembers()]
            fitting = [name for name in names if name.startswith(f"{place.name}/")]
            if not fitting:
                made_for = ", ".join(sorted({name.partition("/")[0] for name in names}))
                raise ConfigurationError(f"{file} holds caches for {made_for}; this is {place.name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            archive.extractall(place.parent, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ConfigurationError(f"{file} is not a packed cache: {error}") from error
    return len(fitting)
