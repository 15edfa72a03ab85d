"""EasyAnimate V5's schedules: DDIM as published, and multistep solvers on its timesteps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import Tensor

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.families.easyanimate_v5.schedule import check, schedule_for
from easyanim_server.engine.solvers.base import Prediction
from easyanim_server.engine.solvers.registry import SOLVERS

PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
MULTISTEP: dict[Solver, Callable[[], SchedulerMixin]] = {
    Solver.UNIPC: lambda: UniPCMultistepScheduler(solver_order=2, solver_type="bh2", **PUBLISHED),
    Solver.DPMPP_2M: lambda: DPMSolverMultistepScheduler(solver_order=2, algorithm_type="dpmsolver++", **PUBLISHED),
}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with NumPy 2


def published(**changed: object) -> DDIMScheduler:
    return DDIMScheduler(**{**PUBLISHED, "clip_sample": False, "set_alpha_to_one": True, **changed})


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def network(x: Tensor, t: float) -> Tensor:
    """A prediction that is linear neither in the sample nor in time."""
    return torch.tanh(x) + 0.3 * torch.sin(3 * x + t / 500)


def both(scheduler: DDIMScheduler, stock: SchedulerMixin, solver: Solver, steps: int, noise: Tensor) -> list[float]:
    """Largest differences of the network's inputs after each step."""
    schedule = schedule_for(scheduler, steps, solver)
    stock.set_timesteps(steps)
    state, expected, latents, apart = SOLVERS[solver].start(noise, schedule), noise, noise, []
    for k, t in enumerate(stock.timesteps[:steps]):
        assert float(schedule.timesteps[k]) == float(t)
        state = SOLVERS[solver].step(state, network(latents, float(t)), schedule, k)
        latents = schedule.latents(state["sample"], k + 1, noise)
        expected = stock.step(network(expected, float(t)), t, expected, return_dict=False)[0]
        apart.append(float((latents - expected).abs().max()))
    return apart


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30, 35, 50, 61])
@pytest.mark.parametrize(
    "changed",
    [{}, {"set_alpha_to_one": False}, {"clip_sample": True}, {"timestep_spacing": "leading", "steps_offset": 1}],
    ids=["published", "ends with noise", "clips", "leads"],
)
def test_ddims_latents_are_the_stock_schedulers_also_where_steps_do_not_divide_1000(
    steps: int, changed: dict[str, object], noise: Tensor
) -> None:
    scheduler = published(**changed)

    assert max(both(scheduler, published(**changed), Solver.DDIM, steps, noise)) < 1e-4


def test_the_schedule_starts_from_noise_alone_and_lands_beside_the_next_start() -> None:
    schedule = schedule_for(published(), 7, Solver.DDIM)

    assert schedule.prediction is Prediction.V
    assert float(schedule.sigmas[0]) == 1.0
    assert float(schedule.scales[0]) == 1.0  # type: ignore[index]
    assert schedule.timesteps.tolist() == [999, 856, 713, 570, 428, 285, 142]
    assert float(schedule.ends[-1, 0]) > 0 == float(schedule.sigmas[-1])  # type: ignore[index]
    assert float(schedule.ends[0, 0]) > float(schedule.sigmas[1])  # type: ignore[index]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("solver", MULTISTEP, ids=lambda solver: solver.value)
def test_multistep_solvers_are_the_stock_ones_of_the_same_configuration(
    solver: Solver, steps: int, noise: Tensor
) -> None:
    apart = both(published(), MULTISTEP[solver](), solver, steps, noise)

    assert max(apart) < 2e-3
    assert apart[-1] < 1e-3


@pytest.mark.parametrize(
    ("changed", "named"), [({"prediction_type": "sample"}, "prediction_type"), ({"thresholding": True}, "thresholding")]
)
def test_schedulers_of_another_kind_are_refused_by_key(changed: dict[str, object], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        check(published(**changed), "m")
