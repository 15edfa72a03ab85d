"""UniPC of second order (B2, predicting data): each sample is corrected once its own prediction is known.

Source: Zhao et al., "UniPC", arXiv 2302.04867. The numbers are those of diffusers' `UniPCMultistepScheduler`.
"""

from __future__ import annotations

from torch import Tensor

from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.solvers.base import Schedule, SolverState, to_data
from easyanim_server.engine.solvers.multistep import corrected, known, predicted


class UniPC:
    """Predictor and corrector.

    State: ``sample``, ``origin`` (what the latest step started from, corrected), and the data predicted at the two
    latest steps, ``data_0`` and ``data_1``, newest first; all float32, of the latents' shape.
    """

    name = SolverName.UNIPC

    def start(self, latents: Tensor, schedule: Schedule) -> SolverState:
        """See `Solver.start`."""
        return {"sample": schedule.sample(latents, 0).float()}

    def step(self, state: SolverState, output: Tensor, schedule: Schedule, index: int) -> SolverState:
        """See `Solver.step`."""
        sigmas: list[float] = schedule.sigmas.tolist()
        sample, before = state["sample"], known(state)
        data = to_data(output, sample, schedule, index)
        if before:
            sample = corrected(state["origin"], before, data, sigmas, index)
        then = predicted(sample, [data, *before], sigmas, index)
        state = {"sample": then, "origin": sample, "data_0": data}
        return {**state, "data_1": before[0]} if before else state
