"""TeaCache: steps whose input has hardly changed reuse what the transformer's blocks did before.

The measure of change is the relative L1 distance between what the first block's attention gets of the video in this
step and in the one before. A polynomial makes of it an estimate of how much the blocks' output changes; estimates are
added up over the steps, and below a threshold the video tokens get what the blocks added to them when they last ran.
The head always runs, with the step's own time.

All state is in the sampling, none in the network: jobs that take turns cannot mix, and a job that was saved goes on as
if it had not been. Text does not reach the measure, so both predictions of guidance share one decision.

Source: Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv 2411.19108;
EasyAnimate ``easyanimate/models/transformer3d.py``, whose residual spans the head's normalisation as well, and so keeps
the earlier step's time there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from easyanim_server.config import coefficients
from easyanim_server.domain.errors import ConfigurationError

UNFITTED = (0.0, 0.0, 0.0, 1.0, 0.0)
"""For models that nobody has fitted: the measure itself."""


@dataclass(slots=True, eq=False)
class StepCache:
    """The cache's state in one sampling."""

    threshold: float
    """Added-up change from which on a step is computed."""
    coefficients: tuple[float, ...]
    """Of the polynomial, highest power first."""
    before: Tensor | None = None
    """Latents of the step before this one, which that step's measure is computed from once more."""
    drift: float = 0.0
    """Change added up since the blocks last ran."""
    residuals: list[Tensor] = field(default_factory=list)
    """What the blocks added to the video's tokens then, (1, video tokens, dim): for the prompt, and for the negative
    prompt where the step had guidance."""

    def drift_after(self, change: float) -> float:
        """The added-up change with that of one more step.

        A polynomial that is not positive has left what it was fitted to, as the published ones do beyond 1.1 (7B) and
        0.8 (12B): there the change itself is added, so that a large one never passes for none.
        """
        estimate = 0.0
        for coefficient in self.coefficients:
            estimate = estimate * change + coefficient
        return self.drift + (estimate if estimate > 0 else change)

    def keep(self, before: Tensor, drift: float | None, residuals: list[Tensor]) -> None:
        """Note a step that is done.

        Args:
            before: Latents that it began with.
            drift: Added-up change with it; None where it was computed.
            residuals: What its predictions were made with.
        """
        self.before, self.drift, self.residuals = before, drift or 0.0, residuals

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        found = {f"residual_{number}": residual for number, residual in enumerate(self.residuals)}
        return found if self.before is None else {"before": self.before, **found}

    def facts(self) -> dict[str, Any]:
        """All other fields, of JSON's types."""
        return {"threshold": self.threshold, "coefficients": list(self.coefficients), "drift": self.drift}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> StepCache:
        """The reverse of `tensors` and `facts`."""
        residuals = [tensors[name] for name in sorted(tensors) if name.startswith("residual_")]
        coefficients = tuple(facts["coefficients"])
        return cls(facts["threshold"], coefficients, tensors.get("before"), facts["drift"], residuals)


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """Relative L1 distance of the first block's inputs in two steps; one float32 on their device."""
    return (now - before).abs().sum(dtype=torch.float32) / before.abs().sum(dtype=torch.float32)


def resolve_coefficients(given: Path | None, published: tuple[float, ...], fingerprint: str) -> tuple[float, ...]:
    """The coefficients to use: those of a file that `fit-cache` wrote, else the published ones.

    Args:
        given: The file, if there is one.
        published: What to use without a file.
        fingerprint: The model's.

    Raises:
        ConfigurationError: the file cannot be read, has another form, or is of another model.
    """
    if given is None:
        return published
    fitted = coefficients.read(given)
    if fitted.model_fingerprint != fingerprint:
        raise ConfigurationError(
            f"cache_coefficients {str(given)!r} were fitted to the model {fitted.model_fingerprint[:16]}…, this is "
            f"{fingerprint[:16]}…"
        )
    return fitted.values
