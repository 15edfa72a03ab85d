"""How a step's predictions are made and combined: without guidance, one after the other, or in a batch of two.

What a bucket uses is chosen when it is prepared; whether a step is guided at all follows from the job's interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from easyanim_server.engine.families.runtime import Condition, Denoiser, ExecutionPath, NetworkInputs
from easyanim_server.engine.prediction import Predictor


class Guidance(Protocol):
    """A strategy; it holds no state."""

    predictions: int
    """How many a step takes: for the prompt, and for the negative prompt."""
    batch: int
    """How many of them pass the network at once."""

    def predict(
        self,
        predictor: Predictor,
        inputs: NetworkInputs,
        conditions: Sequence[Condition],
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Predict for the prompt, and for the negative prompt.

        Args:
            predictor: Runs the network.
            inputs: Of one sample.
            conditions: Of the prompt, then of the negative prompt where there is one.
            path: How the blocks run.
            residuals: As in `Predictor.predict`; one for each prediction, in the same order.
        """

    def combine(self, predictions: Sequence[Tensor], weight: float, rescale: float = 0.0) -> Tensor:
        """The step's prediction.

        Args:
            predictions: As `predict` gave them.
            weight: Of the prompt against the negative prompt.
            rescale: How far the result is brought back to the spread of the prompt's prediction, in [0, 1].
        """


class Unguided:
    """The prompt's prediction alone."""

    predictions = 1
    batch = 1

    def predict(
        self,
        predictor: Predictor,
        inputs: NetworkInputs,
        conditions: Sequence[Condition],
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """See `Guidance.predict`."""
        return predictor.predict(inputs, conditions[:1], path, residuals)

    def combine(self, predictions: Sequence[Tensor], weight: float, rescale: float = 0.0) -> Tensor:
        """See `Guidance.combine`."""
        return predictions[0]


class Sequential:
    """One prediction after the other, or block by block where weights are on their way: half the memory of a batch."""

    predictions = 2
    batch = 1

    def predict(
        self,
        predictor: Predictor,
        inputs: NetworkInputs,
        conditions: Sequence[Condition],
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """See `Guidance.predict`."""
        return predictor.predict(inputs, conditions, path, residuals)

    def combine(self, predictions: Sequence[Tensor], weight: float, rescale: float = 0.0) -> Tensor:
        """See `Guidance.combine`."""
        towards, away = predictions
        guided = away + weight * (towards - away)
        return guided if rescale == 0 else rescaled(guided, towards, rescale)


class Batched(Sequential):
    """Both predictions in a batch of two, the negative one first, as diffusers has them."""

    batch = 2

    def predict(
        self,
        predictor: Predictor,
        inputs: NetworkInputs,
        conditions: Sequence[Condition],
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """See `Guidance.predict`."""
        prompt, negative = conditions
        both = {name: torch.cat((negative[name], prompt[name])) for name in prompt}
        (pair,) = predictor.predict(_twice(inputs), [both], path, residuals)
        if residuals:
            residuals[:] = reversed(residuals[0].chunk(2))
        return list(reversed(pair.chunk(2)))


UNGUIDED, SEQUENTIAL, BATCHED = Unguided(), Sequential(), Batched()


@dataclass(frozen=True, eq=False)
class StepExecution:
    """How the steps of one shape run."""

    path: ExecutionPath
    guidance: Guidance
    """Of steps that are guided."""


def eager_execution(denoiser: Denoiser) -> StepExecution:
    """How shapes run that were not prepared."""
    return StepExecution(denoiser.eager, eager_guidance(denoiser))


def rescaled(guided: Tensor, towards: Tensor, share: float) -> Tensor:
    """Bring a guided prediction back to the spread of the prompt's own, which guidance widens.

    Args:
        guided: (batch, ...).
        towards: The prompt's prediction, of the same shape.
        share: 0 leaves it as it is, 1 gives it the prompt's standard deviation.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891, section 3.4.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = towards.float().std(axes, keepdim=True) / guided.float().std(axes, keepdim=True)
    return ((share * ratio + (1 - share)) * guided).to(guided.dtype)


def eager_guidance(denoiser: Denoiser) -> Guidance:
    """One prediction after the other, but where a batch of two has the bits that are asked for.

    Products of another shape are rounded otherwise.
    """
    return BATCHED if denoiser.exact else SEQUENTIAL


def _twice(inputs: NetworkInputs) -> NetworkInputs:
    given: Mapping[str, Tensor] = {name: torch.cat((tensor, tensor)) for name, tensor in inputs.given.items()}
    latents, timestep = (torch.cat((tensor, tensor)) for tensor in (inputs.latents, inputs.timestep))
    return NetworkInputs(latents, timestep, given)
