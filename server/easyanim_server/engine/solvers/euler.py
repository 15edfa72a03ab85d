"""Steps of first order along the predicted velocity; what EasyAnimate V5.1 was published with."""

from __future__ import annotations

from torch import Tensor

from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.solvers.base import Schedule, SolverState, to_velocity


class Euler:
    """Rounds its sample to the model's type after every step, as diffusers' `FlowMatchEulerDiscreteScheduler`."""

    name = SolverName.EULER

    def start(self, latents: Tensor, schedule: Schedule) -> SolverState:
        """See `Solver.start`."""
        return {"sample": schedule.sample(latents, 0)}

    def step(self, state: SolverState, output: Tensor, schedule: Schedule, index: int) -> SolverState:
        """See `Solver.step`."""
        sample = state["sample"]
        velocity = to_velocity(output, sample, schedule, index)
        dt = schedule.sigmas[index + 1] - schedule.sigmas[index]  # on the host, so nothing waits for the device
        return {"sample": (sample.float() + dt * velocity).to(sample.dtype)}
