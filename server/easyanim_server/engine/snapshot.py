"""A `Sampling` in a file: one safetensors file with its tensors, and everything else as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from easyanim_server.domain.model import ModelInfo
from easyanim_server.engine.sampling import Sampling

FORMAT = "easyanim snapshot"
VERSION = 1

ON_HOST = ("schedule.sigmas", "schedule.scales", "schedule.ends")
"""Tensors that the host reads in every step."""


class SnapshotError(ValueError):
    """A file is no snapshot, or one that this model cannot go on with."""


def identity(model: ModelInfo) -> dict[str, str]:
    """What samplings of a model depend on."""
    return {"fingerprint": model.fingerprint, "attention_mode": model.attention_mode, "dtype": model.dtype}


def save(sampling: Sampling, file: Path, model: Mapping[str, str]) -> None:
    """Write a sampling; waits for the device. A file of that name is replaced as a whole, or stays as it was.

    Args:
        sampling: Between two steps; it can go on afterwards.
        file: Where to.
        model: What its bits depend on beside itself, by name, such as the model's fingerprint.

    Raises:
        OSError: the file cannot be written.
    """
    # Copies, for a file holds no views: what the step cache keeps may be parts of a batch, and others may be shared.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sampling.tensors().items()}
    header = {"version": VERSION, "model": dict(model), "sampling": sampling.facts()}
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file(tensors, draft, metadata={"format": FORMAT, "header": json.dumps(header)})
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def load(file: Path, model: Mapping[str, str], device: torch.device) -> Sampling:
    """Read a sampling that goes on to the same bits as the one that was saved.

    Args:
        file: As `save` wrote it.
        model: As at `save`.
        device: Where the model computes.

    Raises:
        SnapshotError: the file is no snapshot, of another version, or of another model; names what differs.
        OSError: there is no such file, or it cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = _header(opened.metadata() or {}, file)
            _require_model(header["model"], model, file)
            for name in opened.keys():  # noqa: SIM118  it is no dictionary
                # A copy: what safetensors gives is the file itself, which may be written to or be gone later.
                tensors[name] = opened.get_tensor(name).to("cpu" if name in ON_HOST else device, copy=True)
        return Sampling.of(tensors, header["sampling"])
    except SafetensorError as error:
        raise SnapshotError(f"{file} is no snapshot, or is damaged: {error}") from error
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"{file} is damaged: {error!r} is missing or of another kind") from error


def _header(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise SnapshotError(f"{file} is no snapshot: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    header: dict[str, Any] = json.loads(metadata["header"])
    if header["version"] != VERSION:
        raise SnapshotError(f"{file} has version {header['version']}; this server reads version {VERSION}")
    return header


def _require_model(saved: Mapping[str, str], model: Mapping[str, str], file: Path) -> None:
    for name, value in model.items():
        if saved.get(name) != value:
            raise SnapshotError(f"{file} was saved with {name} {saved.get(name)!r}; this model has {value!r}")
