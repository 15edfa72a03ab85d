"""The solvers' numbers are those of diffusers' schedulers; Euler's path is what it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.solvers import flow as solvers
from easyanim_server.engine.solvers.flow import History, schedule

SHIFT = 1.0
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.718281828459045}
PUBLISHED = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True)
STOCK: dict[Solver, Callable[[], SchedulerMixin]] = {
    Solver.UNIPC: lambda: UniPCMultistepScheduler(solver_order=2, solver_type="bh2", **FLOW),
    Solver.DPMPP_2M: lambda: DPMSolverMultistepScheduler(solver_order=2, algorithm_type="dpmsolver++", **FLOW),
}


def velocity(x: Tensor, sigma: float) -> Tensor:
    """Of a field that is neither linear in the sample nor in time."""
    return torch.tanh(x) * (1 + sigma) + torch.sin(3 * x + sigma)


def solve(
    solver: Solver, noise: Tensor, sigmas: Tensor, velocity: Callable[[Tensor, float], Tensor] = velocity
) -> Tensor:
    history: History | None = None
    for k in range(len(sigmas) - 1):
        x = noise if history is None else history.sample
        history = solvers.step(solver, history, noise, velocity(x, float(sigmas[k])), sigmas, k)
    assert history is not None
    return history.sample


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with NumPy 2
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("solver", STOCK, ids=lambda solver: solver.value)
def test_samples_are_those_of_the_stock_schedulers(solver: Solver, steps: int, noise: Tensor) -> None:
    sigmas, _ = schedule(PUBLISHED, steps, SHIFT)
    stock = STOCK[solver]()
    stock.set_timesteps(steps)
    stock.sigmas = sigmas  # DPM's own grid begins elsewhere
    stock.set_begin_index(0)
    expected = noise
    for k, t in enumerate(stock.timesteps):
        expected = stock.step(velocity(expected, float(sigmas[k])), t, expected, return_dict=False)[0]

    torch.testing.assert_close(solve(solver, noise, sigmas), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 8, 20, 25])
def test_the_schedule_is_unipcs_with_the_published_shift_at_bent_times(steps: int) -> None:
    sigmas, timesteps = schedule(PUBLISHED, steps, SHIFT)

    torch.testing.assert_close(sigmas, bent(STOCK[Solver.UNIPC](), steps, math.e), rtol=0, atol=1e-6)
    torch.testing.assert_close(timesteps, 1000 * sigmas[:-1])
    assert sigmas[-1] == 0 < sigmas[-2]
    assert steps < 2 or sigmas[-2] < 0.6 * sigmas[-3], "the last step is short"


def bent(stock: SchedulerMixin, steps: int, shift: float) -> Tensor:
    """The stock scheduler's sigmas where time is bent."""
    stock.set_timesteps(steps)
    even = stock.sigmas.double() / (shift - (shift - 1) * stock.sigmas.double())
    times = even**solvers.BEND
    return (shift * times / (1 + (shift - 1) * times)).float()


def test_a_schedule_with_a_fixed_shift_is_shifted_by_it() -> None:
    sigmas, _ = schedule(FlowMatchEulerDiscreteScheduler(shift=5.0), 10, SHIFT)

    stock = UniPCMultistepScheduler(**{**FLOW, "flow_shift": 5.0})
    torch.testing.assert_close(sigmas, bent(stock, 10, 5.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", STOCK, ids=lambda solver: solver.value)
def test_where_the_solution_is_known_twice_the_steps_err_a_third_and_less_than_eulers(
    solver: Solver, noise: Tensor
) -> None:
    spread = 0.5  # of normally distributed data

    def deviation(sigma: float) -> float:
        return math.hypot((1 - sigma) * spread, sigma)

    def exact(x: Tensor, sigma: float) -> Tensor:
        return (sigma - (1 - sigma) * spread**2) / deviation(sigma) ** 2 * x

    def euler(sigmas: Tensor) -> Tensor:
        x = noise
        for now, then in itertools.pairwise(sigmas.tolist()):
            x = x + (then - now) * exact(x, now)
        return x

    def error(x: Tensor, sigmas: Tensor) -> float:
        expected = deviation(float(sigmas[-1])) / deviation(float(sigmas[0])) * noise
        return float((x - expected).norm() / expected.norm())

    # From noise to a tenth of it: the step to none is of first order in both.
    grids = {steps: torch.linspace(1.0 - 1e-6, 0.1, steps + 1) for steps in (10, 20)}
    errors = {steps: error(solve(solver, noise, grid, exact), grid) for steps, grid in grids.items()}

    assert errors[20] < errors[10] / 3
    assert errors[10] < error(euler(grids[20]), grids[20])


def test_no_step_writes_to_what_it_was_given(noise: Tensor) -> None:
    sigmas, _ = schedule(PUBLISHED, 4, SHIFT)
    history = solvers.step(Solver.UNIPC, None, noise, velocity(noise, 1.0), sigmas, 0)
    history = solvers.step(Solver.UNIPC, history, noise, velocity(history.sample, 0.9), sigmas, 1)
    given = [history.sample, history.origin, *history.data]
    copies = [tensor.clone() for tensor in given]

    solvers.step(Solver.UNIPC, history, noise, velocity(history.sample, 0.7), sigmas, 2)

    assert all(map(torch.equal, given, copies))
    assert len(history.data) == 2
