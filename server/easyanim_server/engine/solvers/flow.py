"""Steps of second order along a predicted velocity, on plain tensors: DPM-Solver++ (2M) and UniPC.

A sample at noise share s is (1 - s) * data + s * noise. Both solvers extrapolate the predicted data over the logarithm
of the ratio of signal to noise; UniPC also corrects each sample once its own prediction is known. All coefficients are
numbers of the host, so nothing waits for the device.

Source: Lu et al., "DPM-Solver++", arXiv 2211.01095; Zhao et al., "UniPC", arXiv 2302.04867 (B2, predicting data). The
numbers are those of diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler`, held by tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from easyanim_server.domain.profiles import Solver

ORDER = 2

BEND = 1.5
"""Power of the times between 1 and 0. The last step cannot be of second order, so it must not be long."""

ALL_NOISE = 1.0 - 1e-6
"""Where schedules start: pure noise has no logarithm of its signal."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What a multistep solver knows between two steps; float32, of the latents' shape."""

    sample: Tensor
    """The latents themselves, before they are rounded to the model's type."""
    origin: Tensor
    """What the latest step started from, corrected."""
    data: tuple[Tensor, ...]
    """Predictions of the data at the latest steps, newest first; at most `ORDER`."""


def schedule(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, log_shift: float) -> tuple[Tensor, Tensor]:
    """Sigmas (steps + 1,) and timesteps (steps,) of the multistep solvers, float32 on the host.

    Times get denser from 1 to 0 (see `BEND`) and are shifted as the model's own scheduler shifts them; its own grid for
    Euler is even, and ends at 1/1000 before the last step, which few steps cannot afford.

    Args:
        scheduler: Whose shift and count of training steps are used.
        steps: Denoising steps.
        log_shift: What the scheduler is given where it shifts dynamically.
    """
    trained = scheduler.config.num_train_timesteps
    bent = torch.linspace(1.0, 1.0 / trained, steps + 1, dtype=torch.float64)[:-1] ** BEND
    if scheduler.config.use_dynamic_shifting:
        shifted = scheduler.time_shift(log_shift, 1.0, bent)
    else:
        shifted = scheduler.shift * bent / (1 + (scheduler.shift - 1) * bent)
    sigmas = shifted.clamp(max=ALL_NOISE)
    return torch.cat((sigmas, sigmas.new_zeros(1))).float(), (sigmas * trained).float()


def step(
    solver: Solver, history: History | None, latents: Tensor, velocity: Tensor, sigmas: Tensor, index: int
) -> History:
    """Take a step; nothing that is given is written to.

    Args:
        solver: `UNIPC` or `DPMPP_2M`.
        history: What the step before returned; None at the first.
        latents: The start of the first step, in any type.
        velocity: Predicted from data to noise, for the sample that the step before returned.
        sigmas: Share of noise before each step and after the last, on the host.
        index: The step, from 0.
    """
    noise: list[float] = sigmas.tolist()
    sample = latents.float() if history is None else history.sample
    data = (sample - noise[index] * velocity.float(), *(history.data if history else ()))
    if solver is Solver.UNIPC and history is not None:
        sample = _corrected(history, data[0], noise, index)
    return History(
        sample=_predicted(sample, data, noise, index),
        origin=sample,
        data=data[: ORDER if solver is Solver.UNIPC else ORDER - 1],
    )


def _order(noise: list[float], index: int) -> int:
    """Of a step: lower while nothing is known of earlier ones, and at the end, where the ratio has no logarithm."""
    return min(ORDER, index + 1, len(noise) - 1 - index)


def _log_ratio(noise: float) -> float:
    """Logarithm of signal over noise."""
    return math.log1p(-noise) - math.log(noise) if noise else math.inf


def _predicted(sample: Tensor, data: tuple[Tensor, ...], noise: list[float], index: int) -> Tensor:
    """The sample after the step. Both solvers agree here: UniPC's predictor of second order is DPM-Solver++'s."""
    now, then = noise[index], noise[index + 1]
    h = _log_ratio(then) - _log_ratio(now)
    estimate = data[0]
    if _order(noise, index) == ORDER:
        before = _log_ratio(now) - _log_ratio(noise[index - 1])
        estimate = estimate + (0.5 * h / before) * (data[0] - data[1])
    return (then / now) * sample - (1 - then) * math.expm1(-h) * estimate


def _corrected(history: History, data: Tensor, noise: list[float], index: int) -> Tensor:
    """The sample before the step once more, now that the data predicted from it is known."""
    before, now = noise[index - 1], noise[index]
    h = _log_ratio(now) - _log_ratio(before)
    latest = history.data[0]
    weight = 0.5
    change = weight * (data - latest)
    if _order(noise, index - 1) == ORDER:
        ratio = (_log_ratio(noise[index - 2]) - _log_ratio(before)) / h
        grown = math.expm1(-h)
        first = grown / -h - 1
        second = first / -h - 0.5
        older_weight = (first - 2 * second) / grown / (1 - ratio)
        weight = first / grown - older_weight
        change = weight * (data - latest) + (older_weight / ratio) * (history.data[1] - latest)
    return (now / before) * history.origin - (1 - now) * math.expm1(-h) * (latest + change)
