"""What a family of models brings to be found, described and loaded; how a loaded one runs is another seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from easyanim_server.domain.model import Capabilities
from easyanim_server.engine.families.runtime import Pipeline
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights.index import CheckpointIndex

ENTRY_POINTS = "easyanim_server.families"
"""Group of entry points by which other distributions register their families; each gives a `ModelFamily` when called
without arguments."""


def never(height: int, width: int) -> bool:
    """Whether the VAE is to work on tiles: at no size."""
    return False


@dataclass(frozen=True)
class Match:
    """A checkpoint is of the family, and the family can run it."""


@dataclass(frozen=True)
class Refusal:
    """The family cannot run a checkpoint."""

    sentence: str
    """What the checkpoint is and what to use instead, for the operator."""
    foreign: bool = False
    """Whether the checkpoint is of another family altogether, so that what that one says of it is to be read."""


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be loaded and run. A family that has no use for an option leaves it alone."""

    device: torch.device
    """Where the networks compute."""
    dtype: torch.dtype
    """Of their weights."""
    on_host: bool = False
    """Whether weights stay in host memory, from where a `Placement` brings them to the device."""
    attention_mode: Literal["original", "diffusers"] = "original"
    """`original` is the network as it was trained; `diffusers` repeats diffusers' numbers."""
    noise_augmentation: float | None = None
    """Standard deviation of the noise on given pictures, whose range is [-1, 1]; None for what the model was trained
    with."""
    tiled: Callable[[int, int], bool] = never
    """Whether a VAE that can is to work on tiles for a video of that height and width, in pixels."""
    sliced: bool = False
    """Whether a VAE takes videos of a batch one by one."""


class ModelFamily(Protocol):
    """Models that share code: EasyAnimate V5.1 is one. See docs/families.md."""

    @property
    def name(self) -> str:
        """As `Capabilities.family` has it."""

    def recognise(self, index: CheckpointIndex) -> Match | Refusal:
        """Whether the family runs a checkpoint, from configurations and headers alone."""

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        """What a checkpoint that it recognises can be asked for."""

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        """Files with weights that `load` needs, relative to the checkpoint's folder. They need not exist yet."""

    def outline(self, index: CheckpointIndex, dtype: torch.dtype) -> Outline:
        """Measure what the networks take in a compute type, without weights.

        Raises:
            UnsupportedModel: the configurations describe no networks.
        """

    def check(self, index: CheckpointIndex) -> None:
        """Refuse a checkpoint that `load` cannot load, by the headers of all of `files`; no weight is read.

        Raises:
            UnsupportedModel: says of a file what it is instead, or which tensors do not fit.
        """

    def components(self, index: CheckpointIndex, *, device: torch.device, dtype: torch.dtype, on_host: bool) -> Any:
        """Load the networks alone, of the family's own types; arguments as `LoadOptions` has them."""

    def export(self, index: CheckpointIndex, folder: Path, device: torch.device) -> None:
        """Write a model that is made at start as a folder that the family recognises.

        Args:
            index: Of such a model, whose folder is None. Families without such models are not asked.
            folder: Absent or empty.
            device: Where weights are drawn.
        """

    def load(self, index: CheckpointIndex, options: LoadOptions) -> Pipeline:
        """Load the networks.

        Args:
            index: With all of `files` in its folder.
            options: Device, type, and how to run.

        Raises:
            UnsupportedModel: the weights do not fit the configurations.
        """
