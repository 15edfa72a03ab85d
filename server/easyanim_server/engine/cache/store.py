"""What compilers made, kept across restarts and machines: one folder for all of them, by everything it depends on."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import tarfile
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
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

UNPACKED_BYTES = 16 * MEBIBYTE
"""A packed cache may have that much in any case."""
UNPACKED_RATIO = 100
"""A larger one, at most so many times the packed size: compiled code compressed 5 times where it was measured."""
UNPACKED_FILES = 100_000
"""In a packed cache; one bucket of a small model made 68."""

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
        cudnn = torch.backends.cudnn.version()
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
        kept: Answer = json.loads(file.read_text(encoding="utf-8-sig"))["answer"]
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
        noted: dict[str, Any] = json.loads(_notes(place, model).read_text(encoding="utf-8-sig")) if place else {}
    except (OSError, ValueError):
        return {}
    return noted


def _notes(place: Path, model: str) -> Path:
    return place / f"served-{hashlib.sha256(model.encode()).hexdigest()[:12]}.json"


def pack(folder: Path | None, device: torch.device, file: Path) -> int:
    """Write this version's cache into one file, which appears once it is complete; returns how many files it holds.

    Raises:
        ConfigurationError: there is nothing to pack yet.
        OSError: the file cannot be written.
    """
    place = version_folder(folder or default_folder(), device)
    files = sorted(item for item in place.rglob("*") if item.is_file())
    if not files:
        raise ConfigurationError(f"there is no cache in {place} yet; fill it with `easyanim-server warm`")
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with tarfile.open(draft, "w:gz") as archive:
            for item in files:
                archive.add(item, item.relative_to(place.parent))
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return len(files)


def unpack(folder: Path | None, device: torch.device, file: Path) -> int:
    """Add a packed cache to the folder, all of it or nothing; returns how many files are of use on this device.

    What is packed is code and will be run, so a file has to be trusted as much as a program is. Only files of this
    version, on this device, are written.

    Raises:
        ConfigurationError: the file is not a packed cache, is made for another device, torch or version of easyanim,
            is larger than caches are, or does not fit onto the disk.
    """
    place = version_folder(folder or default_folder(), device)
    if not file.is_file():
        raise ConfigurationError(f"{str(file)!r} is not a file; `easyanim-server cache export` writes one")
    try:
        _check_size(file, place)
        with tarfile.open(file, "r:gz") as archive:
            fitting = _fitting(archive, file, place)
            made = [parent for parent in (place.parent, *place.parent.parents) if not parent.exists()]
            try:
                count = _place_all(archive, fitting, place)
            except BaseException:
                for parent in made:  # nothing is left of what could not be added
                    with suppress(OSError):
                        parent.rmdir()
                raise
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        of_the_system = isinstance(error, OSError) and error.errno is not None
        wrong = "cannot be unpacked" if of_the_system else "is not a packed cache"
        raise ConfigurationError(f"{file} {wrong}: {error}") from error
    return count


def _check_size(file: Path, place: Path) -> None:
    """Read the whole file, whose checksum stands at its end, without writing anything of it.

    Raises:
        ConfigurationError: it unpacks to more than a cache can have, or than the disk has.
    """
    disk = next(parent for parent in place.parents if parent.exists())
    most = max(UNPACKED_BYTES, UNPACKED_RATIO * file.stat().st_size)
    free = shutil.disk_usage(disk).free
    size = 0
    with gzip.open(file) as whole:
        while part := whole.read(MEBIBYTE):
            size += len(part)
            if size > most:
                raise ConfigurationError(
                    f"{file} is no packed cache: {file.stat().st_size} bytes unpack to more than {most}, "
                    f"and compiled code never compresses {UNPACKED_RATIO} times"
                )
            if size > free:
                raise ConfigurationError(f"{file} needs more than the {free // MEBIBYTE} MiB that {disk} has free")


def _fitting(archive: tarfile.TarFile, file: Path, place: Path) -> list[tarfile.TarInfo]:
    """The archive's files of this version.

    Raises:
        ConfigurationError: there are none, too many, or members that no export writes.
    """
    members: list[tarfile.TarInfo] = []
    for member in archive:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()) or member.name.startswith("/") or ".." in parts:
            raise ConfigurationError(f"{file} is no packed cache: {member.name!r} is no file within it")
        members.append(member)
        if len(members) > UNPACKED_FILES:
            raise ConfigurationError(f"{file} is no packed cache: it has more than {UNPACKED_FILES} files")
    fitting = [item for item in members if item.isfile() and item.name.startswith(f"{place.name}/")]
    if not fitting:
        made_for = ", ".join(sorted({item.name.partition("/")[0] for item in members})[:9]) or "nothing"
        raise ConfigurationError(f"{file} holds caches for {made_for}; this is {place.name}")
    return fitting


def _place_all(archive: tarfile.TarFile, fitting: Sequence[tarfile.TarInfo], place: Path) -> int:
    """Unpack beside the version's folder first, since a disk may fill up; then move, which takes no room."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".import-") as beside:
        archive.extractall(beside, fitting, filter="data")
        unpacked = Path(beside) / place.name
        if not place.exists():
            unpacked.rename(place)
            return sum(1 for item in place.rglob("*") if item.is_file())
        files = [item.relative_to(unpacked) for item in unpacked.rglob("*") if item.is_file()]
        for name in files:
            if (place / name).is_dir():
                raise ConfigurationError(f"{place / name} is a folder; remove it, a file has to go there")
            (place / name).parent.mkdir(parents=True, exist_ok=True)
        for name in files:
            (unpacked / name).replace(place / name)  # a server may be reading the older one
        return len(files)
