"""What a family of models brings to be found, described and loaded; how a loaded one runs is another seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from easyanim_server.domain.model import Capabilities
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights.index import CheckpointIndex


@dataclass(frozen=True)
class Match:
    """A checkpoint is of the family, and the family can run it."""


@dataclass(frozen=True)
class Refusal:
    """The family cannot run a checkpoint."""

    sentence: str
    """What the checkpoint is and what to use instead, for the operator."""


class ModelFamily(Protocol):
    """Models that share code: EasyAnimate V5.1 is one. Registered in `families.registry`."""

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

    def load(self, index: CheckpointIndex, *, device: torch.device, dtype: torch.dtype, on_host: bool) -> Any:
        """Load the networks.

        Args:
            index: With all of `files` in its folder.
            device: Where the networks compute.
            dtype: Of their weights.
            on_host: Whether weights stay in host memory, from where a `Placement` brings them to the device.

        Raises:
            UnsupportedModel: the weights do not fit the configurations.
        """
