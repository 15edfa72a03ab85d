"""What faster paths are compared with: predictions of the eager network, kept across restarts.

A start that finds its compiled code in the cache would spend much of its time on these. They depend on the weights,
so they are kept under a digest of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from easyanim_server.engine.cache import store as cache

log = logging.getLogger(__name__)


class ReferenceCache:
    """Tensors by name, in one file.

    Args:
        folder: Where the file is; None keeps nothing.
        network: Whose predictions they are.
        kind: What else they depend on.
    """

    def __init__(self, folder: Path | None, network: nn.Module, kind: str) -> None:
        self._file = folder / f"{_digest(network, f'{kind} {_configuration(network)}')}.safetensors" if folder else None
        self._kept: dict[str, Tensor] = {}
        self._changed = False
        if self._file and self._file.exists():
            try:
                self._kept = load_file(self._file)
            except (OSError, SafetensorError) as error:
                log.warning("%s cannot be read and is made again: %s", self._file, error)

    def missing(self, *names: str) -> bool:
        """Whether any of these would have to be computed."""
        return not self._kept.keys() >= set(names)

    def get(self, name: str, device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of that name on `device`, computed if it is not kept."""
        if name not in self._kept:
            self._kept[name] = compute().detach().cpu().contiguous()
            self._changed = True
        return self._kept[name].to(device)

    def save(self) -> None:
        """Write what was computed, if anything was."""
        if self._file is not None and self._changed:
            cache.put(self._file, lambda draft: save_file(self._kept, draft))


def _configuration(network: nn.Module) -> str:
    """What a network of the diffusers library was made with; two of the same weights may differ in it."""
    config = getattr(network, "config", {})
    return json.dumps(
        {name: value for name, value in dict(config).items() if name[0] != "_"}, sort_keys=True, default=str
    )


@torch.no_grad()
def _digest(network: nn.Module, kind: str) -> str:
    """Of the names, types, shapes and contents of all weights: of each the sum of its bits, read as 64-bit integers.

    That is as fast as memory is read, and no training leaves all sums as they were.
    """
    weights = network.state_dict()
    sums = [_sum(tensor) for tensor in weights.values()]
    by_device: dict[torch.device, list[Tensor]] = {}
    for value in sums:
        by_device.setdefault(value.device, []).append(value)
    numbers = {device: iter(torch.stack(values).tolist()) for device, values in by_device.items()}  # one wait each
    digest = hashlib.sha256(kind.encode())
    for (name, tensor), value in zip(weights.items(), sums, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {next(numbers[value.device])}".encode())
    return digest.hexdigest()[:24]


def _sum(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    whole = (flat.numel() * flat.itemsize) % 8 == 0 and (flat.storage_offset() * flat.itemsize) % 8 == 0
    return flat.view(torch.int64 if whole else torch.uint8).sum(dtype=torch.int64)
