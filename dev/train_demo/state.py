"""What a training run leaves behind every minute, and begins again from: small files, each under 15 MiB."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dev.train_demo.optimiser import MuonAdamW

LARGEST = 15 * 2**20
"""Bytes of one file."""

_OCTAVES_PER_STEP = 0.25
"""Second moments are kept as logarithms in one byte."""


class Run:
    """The weights that are trained, their averages, and the optimiser; saved and restored together.

    Weights and averages are stored in half precision and second moments in a byte each: what rounding changes is less
    than a step of training does. First moments build up anew in some ten steps.

    Args:
        networks: By the name that their tensors get.
        optimiser: Of all their parameters; what has AdamW's state is saved.
        decay: Of the moving average of the weights; less in the first steps.
    """

    def __init__(self, networks: dict[str, nn.Module], optimiser: MuonAdamW, decay: float) -> None:
        self.networks = networks
        self.optimiser = optimiser
        self.steps = 0
        self.seconds = 0.0
        """Of training, over all calls."""
        self._decay = decay
        self._parameters = dict(_named(networks))
        self.averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def average(self) -> None:
        """Take the present weights into the averages; call after every step."""
        self.steps += 1
        weight = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.averages.values()), list(self._parameters.values()), weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; twice leaves all as it was."""
        for name, parameter in self._parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write all to `folder`, which is complete at any time: the new files replace the old ones at once."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            tensors[f"weights.{name}"] = parameter.detach().half()
            tensors[f"averages.{name}"] = self.averages[name].half()
            moments = self.optimiser.state.get(parameter)
            if moments:
                tensors[f"squares.{name}"] = _to_byte(moments["exp_avg_sq"])
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for number, part in enumerate(_parts(tensors)):
            save_file({name: tensors[name].cpu().contiguous() for name in part}, new / f"part{number}.safetensors")
        facts = facts | {"steps": self.steps, "seconds": round(self.seconds, 1)}
        (new / "state.json").write_text(json.dumps(facts, indent=1) + "\n")
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)

    @torch.no_grad()
    def restore(self, folder: Path) -> dict[str, Any]:
        """Go on from what `save` has written; returns its facts."""
        tensors, facts = read(folder)
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            self.averages[name].copy_(tensors[f"averages.{name}"])
            squares = tensors.get(f"squares.{name}")
            if squares is not None:
                self.optimiser.state[parameter] = {
                    # Beyond the first steps, whose correction for moments that begin at nothing is not wanted again
                    # for the squares; first moments need a few steps to grow, which warms the run up.
                    "step": torch.tensor(float(facts["steps"]), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": _from_byte(squares.to(parameter.device))
                    .to(parameter)
                    .contiguous(memory_format=torch.preserve_format),
                }
        self.steps, self.seconds = facts["steps"], facts["seconds"]
        return facts


def exists(folder: Path | None) -> bool:
    """Whether there is a run to go on from."""
    return folder is not None and (folder / "state.json").is_file()


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and facts in a folder."""
    tensors: dict[str, Tensor] = {}
    for part in sorted(folder.glob("part*.safetensors")):
        tensors.update(load_file(part))
    return tensors, json.loads((folder / "state.json").read_text(encoding="utf-8-sig"))


def load_averages(folder: Path, networks: dict[str, nn.Module]) -> dict[str, Any]:
    """Fill networks with a run's averaged weights; returns its facts."""
    tensors, facts = read(folder)
    with torch.no_grad():
        for name, parameter in _named(networks):
            parameter.copy_(tensors[f"averages.{name}"])
    return facts


class Log:
    """Lines of JSON, printed and appended to a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, **facts: Any) -> None:
        """Write one line; numbers are rounded to four digits."""
        short = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in facts.items()}
        line = json.dumps(short, ensure_ascii=False)
        print(line, flush=True)
        with self._file.open("a") as out:
            out.write(line + "\n")


def progress(most_steps: int | None, steps: int, seconds: float, most_seconds: float) -> float:
    """Share of a call that is done, by steps where their number is given, else by time."""
    return steps / most_steps if most_steps else seconds / most_seconds


def rate_at(done: float, peak: float, warm_up: float = 0.03) -> float:
    """Learning rate after this share of the time: a short rise, then half a cosine to nothing."""
    if done < warm_up:
        return peak * max(done / warm_up, 0.02)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up)))))


def _named(networks: dict[str, nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    for prefix, network in networks.items():
        for name, parameter in network.named_parameters():
            yield f"{prefix}.{name.replace('_orig_mod.', '')}", parameter


def _parts(tensors: dict[str, Tensor]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > LARGEST - 2**18:  # room for the header
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensor.nbytes
    return parts


def _to_byte(x: Tensor) -> Tensor:
    return ((x.clamp(min=1e-30).log2() / _OCTAVES_PER_STEP) + 230).round().clamp(0, 255).to(torch.uint8)


def _from_byte(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.exp2((x.float() - 230) * _OCTAVES_PER_STEP), 0.0)
