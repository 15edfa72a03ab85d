"""What all solvers share: the schedule they follow, their state, and the one place where predictions are converted.

Solvers work on ``z = (1 - s) * data + s * noise``, where s is the share of noise. Flow-matching networks read z itself.
Networks of other families read ``x = a * data + b * noise``, such as variance-preserving ones with ``a^2 + b^2 = 1``.
That is ``(a + b) * z`` with ``s = b / (a + b)``, so a factor a step makes all of them the same problem; the Euler steps
are then those of DDIM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from torch import Tensor

from easyanim_server.domain.profiles import Solver as SolverName


class Prediction(Enum):
    """What a network predicts."""

    FLOW = "flow"
    """noise - data."""
    V = "v"
    """a * noise - b * data, for an input a * data + b * noise."""
    EPSILON = "epsilon"
    """The noise."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels of one generation.

    Raises:
        ValueError: the lengths do not fit together, or the noise is to be predicted where there is nothing else.
    """

    sigmas: Tensor
    """Share of noise before each step and after the last, (steps + 1,) float32, on the host; falls to 0."""
    timesteps: Tensor
    """The same as the network reads it, (steps,), in the model's dtype, on its device."""
    prediction: Prediction = Prediction.FLOW
    scales: Tensor | None = None
    """Factor from z to the network's input at each of `sigmas`, (steps + 1,) float32, on the host; None where it is 1
    throughout."""
    ends: Tensor | None = None
    """Share of noise and scale that each step ends at, (steps, 2) float32, on the host; None where those are the next
    of `sigmas` and `scales`. Published schedules that round timesteps miss their own next level by a training step."""
    data_bound: float | None = None
    """Values of predicted data are clipped to this size; None where they are not."""

    def __post_init__(self) -> None:
        lengths = [len(self.sigmas), len(self.timesteps) + 1]
        lengths += [] if self.scales is None else [len(self.scales)]
        lengths += [] if self.ends is None else [len(self.ends) + 1]
        if len(set(lengths)) != 1:
            raise ValueError(f"schedule of {lengths[0]} sigmas, {lengths[1] - 1} timesteps, {lengths[2:]} scales, ends")
        if self.prediction is Prediction.EPSILON and not float(self.sigmas.max()) < 1:
            raise ValueError("a network that predicts noise needs sigmas below 1: pure noise has nothing of the data")

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self.timesteps)

    def scale(self, index: int) -> float:
        """Factor from z to the network's input before step `index`."""
        return 1.0 if self.scales is None else float(self.scales[index])

    def latents(self, sample: Tensor, index: int, like: Tensor) -> Tensor:
        """The network's input for z before step `index`, in the dtype of `like`; the latents where all are taken."""
        return (sample if self.scales is None else self.scale(index) * sample).to(like.dtype)

    def sample(self, latents: Tensor, index: int) -> Tensor:
        """The reverse of `latents`, in float32 where there are scales."""
        return latents if self.scales is None else latents.float() / self.scale(index)


SolverState = Mapping[str, Tensor]
"""Plain tensors by name. ``sample`` is z, of the latents' shape; the others are the solver's own."""


class Solver(Protocol):
    """Takes steps along predictions. It keeps nothing itself, never waits for the device and writes to no tensor."""

    name: SolverName

    def start(self, latents: Tensor, schedule: Schedule) -> SolverState:
        """The state before the first step.

        Args:
            latents: What the generation starts from, in the model's dtype.
            schedule: Of the generation.
        """

    def step(self, state: SolverState, output: Tensor, schedule: Schedule, index: int) -> SolverState:
        """The state after a step.

        Args:
            state: What `start` or the step before gave.
            output: What the network predicts for ``schedule.latents(state["sample"], index, ...)``.
            schedule: Of the generation.
            index: The step, from 0.
        """


def to_velocity(output: Tensor, sample: Tensor, schedule: Schedule, index: int) -> Tensor:
    """Convert a prediction to noise - data, which is how z changes with the share of noise.

    Args:
        output: The network's.
        sample: z, in any type; read where the network does not predict flow.
        schedule: Says what is predicted.
        index: The step, from 0.
    """
    if schedule.prediction is Prediction.FLOW:
        return output
    noise, scale, z = float(schedule.sigmas[index]), schedule.scale(index), sample.float()
    if schedule.prediction is Prediction.EPSILON:
        return (output.float() - z) / (1 - noise)
    return ((2 * noise - 1) * z + output.float() / scale) / ((1 - noise) ** 2 + noise**2)


def to_data(output: Tensor, sample: Tensor, schedule: Schedule, index: int) -> Tensor:
    """Convert a prediction to the data in `sample`, float32; arguments are those of `to_velocity`."""
    velocity = to_velocity(output, sample, schedule, index)
    return sample - float(schedule.sigmas[index]) * velocity.float()
