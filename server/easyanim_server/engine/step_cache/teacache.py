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

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from easyanim_server.config import coefficients
from easyanim_server.domain.errors import ConfigurationError

PUBLISHED: dict[tuple[int, int], tuple[float, ...]] = {
    (36, 18): (1.07862322, -4.19362456, 3.06725828, 0.33161686, 0.02374758),
    (48, 48): (-10.47857366, 8.33844143, -0.78477557, 0.68798618, 0.0136149),
}
"""Upstream's fits by count of layers and of MMDiT layers: EasyAnimate V5.1 7B and 12B, InP."""

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

    def state(self) -> dict[str, Any]:
        """All fields as tensors, numbers and lists of them."""
        return {
            "threshold": self.threshold,
            "coefficients": list(self.coefficients),
            "before": self.before,
            "drift": self.drift,
            "residuals": [residual.clone() for residual in self.residuals],  # not the batch that they are views of
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> StepCache:
        """The reverse of `state`."""
        return cls(**{**state, "coefficients": tuple(state["coefficients"]), "residuals": list(state["residuals"])})


def resolve_coefficients(given: Path | None, layers: tuple[int, int], fingerprint: str) -> tuple[float, ...]:
    """The coefficients to use: those of a file that `fit-cache` wrote, else the published ones of the model's shape.

    Args:
        given: The file, if there is one.
        layers: Count of the model's layers and of its MMDiT layers.
        fingerprint: The model's.

    Raises:
        ConfigurationError: the file cannot be read, has another form, or is of another model.
    """
    if given is None:
        return PUBLISHED.get(layers, UNFITTED)
    fitted = coefficients.read(given)
    if fitted.model_fingerprint != fingerprint:
        raise ConfigurationError(
            f"cache_coefficients {str(given)!r} were fitted to the model {fitted.model_fingerprint[:16]}…, this is "
            f"{fingerprint[:16]}…"
        )
    return fitted.values
