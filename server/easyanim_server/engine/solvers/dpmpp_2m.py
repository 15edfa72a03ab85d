"""DPM-Solver++ (2M): steps of second order from the data predicted at the two latest steps.

Source: Lu et al., "DPM-Solver++", arXiv 2211.01095. The numbers are those of diffusers' `DPMSolverMultistepScheduler`.
"""

from __future__ import annotations

from torch import Tensor

from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.solvers.base import Schedule, SolverState, to_data
from easyanim_server.engine.solvers.multistep import known, predicted


class DPMpp2M:
    """Two steps' predictions.

    State: ``sample`` and ``data_0``, the data predicted at the latest step; float32, of the latents' shape.
    """

    name = SolverName.DPMPP_2M

    def start(self, latents: Tensor, schedule: Schedule) -> SolverState:
        """See `Solver.start`."""
        return {"sample": schedule.sample(latents, 0).float()}

    def step(self, state: SolverState, output: Tensor, schedule: Schedule, index: int) -> SolverState:
        """See `Solver.step`."""
        data = to_data(output, state["sample"], schedule, index)
        then = predicted(state["sample"], [data, *known(state)], schedule.sigmas.tolist(), index)
        return {"sample": then, "data_0": data}
