"""What UniPC and DPM-Solver++ (2M) share: extrapolation of the predicted data over the logarithm of signal to noise.

All coefficients are numbers of the host, so nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from easyanim_server.engine.solvers.base import SolverState

ORDER = 2


def known(state: SolverState) -> list[Tensor]:
    """The data predicted at earlier steps, newest first."""
    return [state[name] for name in ("data_0", "data_1") if name in state]


def predicted(sample: Tensor, data: Sequence[Tensor], sigmas: Sequence[float], index: int) -> Tensor:
    """The sample after a step. Both solvers agree here: UniPC's predictor of second order is DPM-Solver++'s.

    Args:
        sample: Before the step, float32.
        data: Predicted at this step and before, newest first.
        sigmas: Share of noise before each step and after the last.
        index: The step, from 0.
    """
    now, then = sigmas[index], sigmas[index + 1]
    h = _log_ratio(then) - _log_ratio(now)
    estimate = data[0]
    if _order(sigmas, index) == ORDER:
        before = _log_ratio(now) - _log_ratio(sigmas[index - 1])
        estimate = estimate + (0.5 * h / before) * (data[0] - data[1])
    return (then / now) * sample - (1 - then) * math.expm1(-h) * estimate


def corrected(origin: Tensor, known: Sequence[Tensor], data: Tensor, sigmas: Sequence[float], index: int) -> Tensor:
    """The sample before a step once more, now that the data predicted from it is known.

    Args:
        origin: What the step before started from, corrected.
        known: Data predicted at the steps before, newest first.
        data: Predicted at this step.
        sigmas: Share of noise before each step and after the last.
        index: The step, from 1.
    """
    before, now = sigmas[index - 1], sigmas[index]
    h = _log_ratio(now) - _log_ratio(before)
    latest = known[0]
    weight = 0.5
    change = weight * (data - latest)
    if _order(sigmas, index - 1) == ORDER:
        ratio = (_log_ratio(sigmas[index - 2]) - _log_ratio(before)) / h
        grown = math.expm1(-h)
        first = grown / -h - 1
        second = first / -h - 0.5
        older_weight = (first - 2 * second) / grown / (1 - ratio)
        weight = first / grown - older_weight
        change = weight * (data - latest) + (older_weight / ratio) * (known[1] - latest)
    return (now / before) * origin - (1 - now) * math.expm1(-h) * (latest + change)


def _order(sigmas: Sequence[float], index: int) -> int:
    """Of a step: lower while nothing is known of earlier ones, and at the end, where the ratio has no logarithm."""
    return min(ORDER, index + 1, len(sigmas) - 1 - index)


def _log_ratio(noise: float) -> float:
    """Logarithm of signal over noise."""
    return math.log1p(-noise) - math.log(noise) if noise else math.inf
