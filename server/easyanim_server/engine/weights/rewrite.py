"""Safetensors files under other names and in other files: bytes are copied from file to file, never through tensors."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from easyanim_server.engine.weights.contents import check_safetensors
from easyanim_server.engine.weights.read import Rename

BLOCK = 1 << 24
ALIGNED = 8
"""Bytes that a header's length is a multiple of, as the library writes it."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what its header says."""

    file: Path
    start: int
    """First byte in the file."""
    size: int
    """Bytes."""
    facts: dict[str, Any]
    """``dtype`` and ``shape``."""


def rewrite(files: Sequence[Path], folder: Path, stem: str, rename: Rename, most: int) -> None:
    """Write tensors as a library would store them: one file, or several and an index where that would be too large.

    Args:
        files: All of one component.
        folder: Where to; it must be there.
        stem: Of the names of the files.
        rename: Gives the new names; tensors without one are left out.
        most: Bytes of a file, of which a larger tensor alone may have more.

    Raises:
        UnsupportedModel: a file is no safetensors file.
        OSError: a file cannot be read or written.
    """
    tensors = {}
    for file in files:
        for name, tensor in _tensors(file):
            ours = rename(name)
            if ours is not None:
                tensors[ours] = tensor
    shards = list(_shards(tensors, most))
    names = [_file_name(stem, number, len(shards)) for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, {key: tensors[key] for key in shard})
    if len(shards) > 1:
        total = sum(tensor.size for tensor in tensors.values())
        owners = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": owners}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / f"{stem}.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def _file_name(stem: str, number: int, count: int) -> str:
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05}-of-{count:05}.safetensors"


def _tensors(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    check_safetensors(file)
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    for name, facts in header.items():
        if name != "__metadata__":
            start, end = facts.pop("data_offsets")
            yield name, StoredTensor(file, 8 + length + start, end - start, facts)


def _shards(tensors: dict[str, StoredTensor], most: int) -> Iterator[list[str]]:
    """Names of one file after the other, in order."""
    shard: list[str] = []
    size = 0
    for name, tensor in sorted(tensors.items()):
        if shard and size + tensor.size > most:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.size
    if shard:
        yield shard


def _write(file: Path, tensors: dict[str, StoredTensor]) -> None:
    # Widest numbers first, so that each begins at a multiple of its width, as readers require.
    ordered = sorted(tensors.items(), key=lambda item: (-_width(item[1]), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        header[name] = {**tensor.facts, "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    with file.open("wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            with tensor.file.open("rb") as source:
                _copy(source, target, tensor)
        target.flush()
        os.fsync(target.fileno())


def _copy(source: BinaryIO, target: BinaryIO, tensor: StoredTensor) -> None:
    source.seek(tensor.start)
    left = tensor.size
    while left:
        block = source.read(min(left, BLOCK))
        if not block:
            raise OSError(f"{tensor.file} was cut off while it was read")
        target.write(block)
        left -= len(block)


def _width(tensor: StoredTensor) -> int:
    count = 1
    for size in tensor.facts["shape"]:
        count *= size
    return tensor.size // count if count else 0
