"""DDIM without added noise: steps of first order; what EasyAnimate V5 was published with.

Source: Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502. The numbers are those of diffusers'
`DDIMScheduler` with ``eta`` 0.
"""

from __future__ import annotations

from torch import Tensor

from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.solvers.base import Schedule, SolverState, to_velocity


class DDIM:
    """Euler's steps on z, but that each ends where the published schedule has it end.

    State: ``sample``, float32, of the latents' shape. What the network reads of it is rounded to the model's type, the
    sample is not.
    """

    name = SolverName.DDIM

    def start(self, latents: Tensor, schedule: Schedule) -> SolverState:
        """See `Solver.start`."""
        return {"sample": schedule.sample(latents, 0).float()}

    def step(self, state: SolverState, output: Tensor, schedule: Schedule, index: int) -> SolverState:
        """See `Solver.step`."""
        sample, noise = state["sample"], float(schedule.sigmas[index])
        velocity = to_velocity(output, sample, schedule, index)
        if schedule.data_bound is not None:
            clipped = (sample - noise * velocity).clamp(-schedule.data_bound, schedule.data_bound)
            # The noise stays what it was predicted to be: noise - clipped instead of noise - data.
            velocity = sample + (1 - noise) * velocity - clipped
            sample = (1 - noise) * clipped + noise * (velocity + clipped)
        end, scale = float(schedule.sigmas[index + 1]), 1.0
        if schedule.ends is not None:
            end, scale = schedule.ends[index].tolist()
            scale /= schedule.scale(index + 1)
        return {"sample": scale * (sample + (end - noise) * velocity)}
