"""The noise levels that EasyAnimate V5 is denoised at: timesteps of training, counted from the last one."""

from __future__ import annotations

import copy

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.solvers.base import Prediction, Schedule

PREDICTIONS = {"v_prediction": Prediction.V, "epsilon": Prediction.EPSILON}

LEAST_SIGNAL = 2.0**-24
"""Share of the data's variance that multistep solvers start from: pure noise has no logarithm of its signal."""


def check(scheduler: DDIMScheduler, model: str) -> None:
    """Refuse a scheduler whose steps are not the solver's.

    Raises:
        UnsupportedModel: names the key and what is allowed.
    """
    config = scheduler.config
    if config.prediction_type not in PREDICTIONS:
        allowed = ", ".join(PREDICTIONS)
        raise UnsupportedModel(f"{model}: prediction_type is {config.prediction_type!r}; must be one of {allowed}")
    if config.thresholding:
        raise UnsupportedModel(f"{model}: its scheduler's thresholding is true; must be false")


def ddim_schedule(scheduler: DDIMScheduler, steps: int) -> Schedule:
    """The published schedule, whose steps may end a training step beside the next one's start.

    Args:
        scheduler: Its configuration decides.
        steps: Denoising steps.
    """
    config = scheduler.config
    times = _times(scheduler, steps)
    ends = times - config.num_train_timesteps // steps
    signal = scheduler.alphas_cumprod.double()
    last = torch.as_tensor(scheduler.final_alpha_cumprod).double()
    shares, scales = _levels(torch.cat((signal[times], last[None])))
    end_shares, end_scales = _levels(torch.where(ends >= 0, signal[ends.clamp(min=0)], last))
    return Schedule(
        shares,
        times.float(),
        PREDICTIONS[config.prediction_type],
        scales,
        ends=torch.stack((end_shares, end_scales), dim=1),
        data_bound=float(config.clip_sample_range) if config.clip_sample else None,
    )


def multistep_schedule(scheduler: DDIMScheduler, steps: int) -> Schedule:
    """The same timesteps for multistep solvers, which end at no noise; arguments as of `ddim_schedule`."""
    times = _times(scheduler, steps)
    signal = scheduler.alphas_cumprod.double()[times].clamp(min=LEAST_SIGNAL)
    shares, scales = _levels(torch.cat((signal, signal.new_ones(1))))
    return Schedule(shares, times.float(), PREDICTIONS[scheduler.config.prediction_type], scales)


def schedule_for(scheduler: DDIMScheduler, steps: int, solver: Solver) -> Schedule:
    """The schedule of a solver, on the host."""
    return ddim_schedule(scheduler, steps) if solver is Solver.DDIM else multistep_schedule(scheduler, steps)


def _times(scheduler: DDIMScheduler, steps: int) -> Tensor:
    own = copy.deepcopy(scheduler)  # it keeps what it is asked for
    own.set_timesteps(steps)
    times: Tensor = own.timesteps
    return times[:steps]  # of 61, 103, 121 and 122 steps rounding makes one more, which is none of training's


def _levels(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Share of noise, and scale, of shares of the data's variance; see `solvers.base`."""
    data, noise = signal.sqrt(), (1 - signal).sqrt()
    scales = data + noise
    return (noise / scales).float(), scales.float()
