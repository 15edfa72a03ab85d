"""Weights in safetensors files: which files hold them, and how they become a network's, one tensor at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.weights.contents import check_safetensors, read_object
from easyanim_server.engine.weights.original import is_original, original_name

Rename = Callable[[str], str | None]
"""From a stored name to the network's own; None leaves the tensor in its file."""


PORTION = 2 * 10**9
"""Bytes of a file that are mapped at a time, where its pages are not what is kept."""


def as_stored(name: str) -> str | None:
    """Take every tensor under its stored name."""
    return name


def stored_names(folder: Path, stem: str) -> list[str]:
    """Name the tensors of a component, as far as its index or its one file's header is there to tell."""
    shards = _shards(folder, stem)
    if shards is not None:
        return list(shards)
    file = folder / f"{stem}.safetensors"
    if not file.is_file():
        return []
    check_safetensors(file)
    with _opened(file) as stored:
        return list(stored.keys())


def files_of(folder: Path, stem: str, rename: Rename = as_stored) -> list[str]:
    """Name the files that hold wanted weights, without opening them.

    Args:
        folder: One component of a model, such as ``transformer/``.
        stem: What the library calls its file: ``<stem>.safetensors``, or ``<stem>.safetensors.index.json`` and shards.
        rename: Decides what is wanted; shards without any of it are not named.

    Returns:
        File names in order. They need not exist.
    """
    shards = _shards(folder, stem)
    if shards is None:
        return [f"{stem}.safetensors"]
    return sorted({shard for name, shard in shards.items() if rename(name) is not None})


def load_weights(
    network: nn.Module,
    folder: Path,
    stem: str,
    rename: Rename = as_stored,
    *,
    device: torch.device,
    dtype: torch.dtype,
    own: bool = False,
) -> None:
    """Fill a network built on the meta device from the files that `files_of` names.

    Files are mapped into memory and read tensor by tensor, so the host never holds a second copy. On the CPU in
    the stored type there is not even a first: the weights are the mapped pages, shared by every process that maps
    them until one writes. Where they are to be moved to other memory, `own` reads them instead, so that a
    file's pages can go once it is read.

    Raises:
        UnsupportedModel: a file is absent or broken, or its tensors are not exactly the network's.
    """
    files = files_of(folder, stem, rename)
    network.load_state_dict(_tensors(folder, files, rename, device, dtype, own), assign=True)
    network.to(device)  # buffers, which checkpoints do not hold
    network.eval().requires_grad_(False)


def check_weights(network: nn.Module, folder: Path, stem: str, rename: Rename = as_stored) -> None:
    """Refuse what `load_weights` cannot fill a network from, by the headers of all its files; no weight is read.

    Args:
        network: On the meta device or filled; nothing of it changes.
        folder: As in `load_weights`.
        stem: As there.
        rename: As there.

    Raises:
        UnsupportedModel: a file is missing or is no safetensors file, or tensors do not fit the network.
    """
    files = files_of(folder, stem, rename)
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise UnsupportedModel(f"{folder} lacks {_some(absent)}{_instead(folder, stem, absent, len(files))}")
    for name in files:
        check_safetensors(folder / name)
    _compare(network, folder, files, rename)


def _instead(folder: Path, stem: str, absent: Sequence[str], count: int) -> str:
    """What lies in a component's folder in place of weights that are absent, and what to do."""
    linked = [name for name in absent if (folder / name).is_symlink()]
    if linked:
        return f"; {_some(linked)} is a link to {os.readlink(folder / linked[0])}, which is not there"
    if len(absent) < count or (folder / f"{stem}.safetensors.index.json").is_file():
        return f", {len(absent)} of the {count} files that its index names; download them again"
    present = sorted(item.name for item in folder.glob("*") if item.is_file())
    variants = [name for name in present if re.fullmatch(rf"{re.escape(stem)}(-.+)?\..+\.safetensors", name)]
    if variants:
        rename = f"rename it to {absent[0]}, or " if len(variants) == 1 else ""
        return f"; {_some(variants)} is of a variant: {rename}download the model without a variant"
    pickles = [name for name in present if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles:
        return (
            f"; weights are read from safetensors files alone, and {_some(pickles)} is a pickle (.bin), which may run "
            "code when it is read; save the model again with safe_serialization=True"
        )
    others = [name for name in present if name.endswith((".safetensors", ".gguf"))]
    return f"; it has {_some(others)}, and no index" if others else "; it has no weights at all"


def _tensors(
    folder: Path, files: Sequence[str], rename: Rename, device: torch.device, dtype: torch.dtype, own: bool
) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in files:
        for portion in _portions(folder / file):
            for name, mapped in portion:
                ours = rename(name)
                if ours is not None:
                    moved = mapped.to(device).to(dtype)  # converted on the device, where it is fast
                    tensors[ours] = moved.clone() if own and moved is mapped else moved
    return tensors


def _portions(file: Path) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """A file's tensors by name, of which each portion has a mapping of its own.

    Pages that were read count as the process's until their mapping ends, and the authors' transformers are one file of
    up to 24 GB.
    """
    with _opened(file) as stored:
        left = list(stored.keys())[::-1]

    def portion(stored: Any) -> Iterator[tuple[str, torch.Tensor]]:
        count = 0
        while left and count < PORTION:
            name = left.pop()
            tensor = stored.get_tensor(name)
            count += tensor.nbytes
            yield name, tensor

    while left:
        with _opened(file) as stored:
            yield portion(stored)


def _compare(network: nn.Module, folder: Path, files: Sequence[str], rename: Rename) -> None:
    """Read the files' headers alone, so that a wrong checkpoint is refused before gigabytes are read."""
    missing = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    unexpected, misshapen = [], []
    originals = False
    for file in files:
        with _opened(folder / file) as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping, only iterable by its keys
                own = rename(name)
                if own is None:
                    continue
                originals |= is_original(name)
                shape = missing.pop(own, None)
                found = stored.get_slice(name).get_shape()
                if shape is None:
                    unexpected.append(name)
                elif found != shape:
                    misshapen.append(f"{name} {found} instead of {shape}")
    if originals:  # in the words of the file
        missing = {original_name(name): shape for name, shape in missing.items()}
    problems = [
        f"{what} {_some(names)}"
        for what, names in (("missing", list(missing)), ("unexpected", unexpected), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise UnsupportedModel(f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}")


def _shards(folder: Path, stem: str) -> dict[str, str] | None:
    """Map tensor names to file names where there is an index."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return None
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UnsupportedModel(f"{index} is damaged: it has no weight_map from tensors to files")
    wrong = [name for name, file in shards.items() if not isinstance(file, str) or Path(file).name != file]
    if wrong:
        raise UnsupportedModel(f"{index} is damaged: weight_map has no file name for {_some(wrong)}")
    return shards


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(f"{file} is broken: {error}") from error


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
