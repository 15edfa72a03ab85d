"""The noise levels that EasyAnimate V5.1 is denoised at: the published grid for Euler, a bent one for other solvers."""

from __future__ import annotations

import copy

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.solvers.base import Schedule

LOG_SHIFT = 1.0
"""Logarithm of the factor by which time is shifted towards noise; EasyAnimate's pipelines use it at every size."""

BEND = 1.5
"""Power of the times between 1 and 0. The last step cannot be of second order, so it must not be long."""

ALL_NOISE = 1.0 - 1e-6
"""Where bent grids start: pure noise has no logarithm of its signal."""


def published_grid(scheduler: FlowMatchEulerDiscreteScheduler, steps: int) -> tuple[Tensor, Tensor]:
    """Sigmas (steps + 1,) and timesteps (steps,) of the model's own scheduler, float32 on the host."""
    own = copy.deepcopy(scheduler)  # it keeps what it is asked for
    own.set_timesteps(steps, mu=LOG_SHIFT)
    return own.sigmas, own.timesteps


def bent_grid(scheduler: FlowMatchEulerDiscreteScheduler, steps: int) -> tuple[Tensor, Tensor]:
    """Sigmas (steps + 1,) and timesteps (steps,) for multistep solvers, float32 on the host.

    Times get denser from 1 to 0 (see `BEND`) and are shifted as the model's own scheduler shifts them; its own grid for
    Euler is even, and ends at 1/1000 before the last step, which few steps cannot afford.

    Args:
        scheduler: Whose shift and count of training steps are used.
        steps: Denoising steps.
    """
    trained = scheduler.config.num_train_timesteps
    bent = torch.linspace(1.0, 1.0 / trained, steps + 1, dtype=torch.float64)[:-1] ** BEND
    if scheduler.config.use_dynamic_shifting:
        shifted = scheduler.time_shift(LOG_SHIFT, 1.0, bent)
    else:
        shifted = scheduler.shift * bent / (1 + (scheduler.shift - 1) * bent)
    sigmas = shifted.clamp(max=ALL_NOISE)
    return torch.cat((sigmas, sigmas.new_zeros(1))).float(), (sigmas * trained).float()


def schedule_for(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, solver: Solver) -> Schedule:
    """The published grid for Euler, a bent one for multistep solvers; on the host, and of predicted flow."""
    return Schedule(*(published_grid if solver is Solver.EULER else bent_grid)(scheduler, steps))
