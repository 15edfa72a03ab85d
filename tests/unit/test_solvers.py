"""The solvers' numbers are those of diffusers' schedulers; Euler's path is what it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from easyanim_server.domain.profiles import Solver
from easyanim_server.engine.families.easyanimate_v51.schedule import BEND, bent_grid
from easyanim_server.engine.solvers.base import Prediction, Schedule, to_data, to_velocity
from easyanim_server.engine.solvers.registry import SOLVERS

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
    schedule = Schedule(sigmas, 1000 * sigmas[:-1])
    state = SOLVERS[solver].start(noise, schedule)
    for k in range(schedule.steps):
        state = SOLVERS[solver].step(state, velocity(state["sample"], float(sigmas[k])), schedule, k)
    return state["sample"]


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with NumPy 2
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("solver", STOCK, ids=lambda solver: solver.value)
def test_samples_are_those_of_the_stock_schedulers(solver: Solver, steps: int, noise: Tensor) -> None:
    sigmas, _ = bent_grid(PUBLISHED, steps)
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
    sigmas, timesteps = bent_grid(PUBLISHED, steps)

    torch.testing.assert_close(sigmas, bent(STOCK[Solver.UNIPC](), steps, math.e), rtol=0, atol=1e-6)
    torch.testing.assert_close(timesteps, 1000 * sigmas[:-1])
    assert sigmas[-1] == 0 < sigmas[-2]
    assert steps < 2 or sigmas[-2] < 0.6 * sigmas[-3], "the last step is short"


def bent(stock: SchedulerMixin, steps: int, shift: float) -> Tensor:
    """The stock scheduler's sigmas where time is bent."""
    stock.set_timesteps(steps)
    even = stock.sigmas.double() / (shift - (shift - 1) * stock.sigmas.double())
    times = even**BEND
    shifted: Tensor = (shift * times / (1 + (shift - 1) * times)).float()
    return shifted


def test_a_schedule_with_a_fixed_shift_is_shifted_by_it() -> None:
    sigmas, _ = bent_grid(FlowMatchEulerDiscreteScheduler(shift=5.0), 10)

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
    sigmas, _ = bent_grid(PUBLISHED, 4)
    schedule, unipc = Schedule(sigmas, 1000 * sigmas[:-1]), SOLVERS[Solver.UNIPC]
    state = unipc.step(unipc.start(noise, schedule), velocity(noise, 1.0), schedule, 0)
    state = unipc.step(state, velocity(state["sample"], 0.9), schedule, 1)
    copies = {name: tensor.clone() for name, tensor in state.items()}

    unipc.step(state, velocity(state["sample"], 0.7), schedule, 2)

    assert state.keys() == copies.keys() == {"sample", "origin", "data_0", "data_1"}
    assert all(torch.equal(state[name], copies[name]) for name in copies)


CONVERSIONS = {
    Prediction.FLOW: lambda a, b, data, noise: noise - data,
    Prediction.V: lambda a, b, data, noise: a * noise - b * data,
    Prediction.EPSILON: lambda a, b, data, noise: noise,
}


def preserving(steps: int, prediction: Prediction) -> tuple[Schedule, Tensor, Tensor]:
    """A variance-preserving schedule, and the shares of data and of noise at its levels."""
    angles = torch.linspace(1.4, 0.0, steps + 1, dtype=torch.float64)
    a, b = angles.cos(), angles.sin()
    return Schedule((b / (a + b)).float(), 1000 * angles[:-1].float(), prediction, (a + b).float()), a, b


@pytest.mark.parametrize("prediction", Prediction, ids=lambda prediction: prediction.value)
def test_every_kind_of_prediction_is_converted_to_the_same_data_and_velocity(
    prediction: Prediction, noise: Tensor
) -> None:
    data = torch.tanh(noise.flip(-1))
    schedule, a, b = preserving(8, prediction)
    for k in range(8):
        latents = float(a[k]) * data + float(b[k]) * noise
        output = CONVERSIONS[prediction](float(a[k]), float(b[k]), data, noise)
        sample = schedule.sample(latents, k)

        torch.testing.assert_close(schedule.latents(sample, k, latents), latents)
        torch.testing.assert_close(to_data(output, sample, schedule, k), data, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(to_velocity(output, sample, schedule, k), noise - data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", Prediction, ids=lambda prediction: prediction.value)
@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
def test_where_the_data_is_known_every_solver_ends_at_it(solver: Solver, prediction: Prediction, noise: Tensor) -> None:
    data = torch.tanh(noise.flip(-1))
    schedule, a, b = preserving(6, prediction)
    state = SOLVERS[solver].start(float(a[0]) * data + float(b[0]) * noise, schedule)
    for k in range(6):
        latents = schedule.latents(state["sample"], k, noise)
        drawn = (latents - float(a[k]) * data) / float(b[k])
        output = CONVERSIONS[prediction](float(a[k]), float(b[k]), data, drawn)
        state = SOLVERS[solver].step(state, output, schedule, k)

    torch.testing.assert_close(schedule.latents(state["sample"], 6, noise), data, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_eulers_steps_on_predicted_noise_are_those_of_ddim(noise: Tensor) -> None:
    stock = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    stock.set_timesteps(10)
    kept = torch.cat((stock.alphas_cumprod[stock.timesteps], torch.ones(1))).double()
    a, b = kept.sqrt(), (1 - kept).sqrt()
    schedule = Schedule((b / (a + b)).float(), stock.timesteps.float(), Prediction.EPSILON, (a + b).float())
    state, expected = SOLVERS[Solver.EULER].start(noise, schedule), noise
    for k, t in enumerate(stock.timesteps):
        latents = schedule.latents(state["sample"], k, noise)
        torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)
        state = SOLVERS[Solver.EULER].step(state, torch.tanh(latents), schedule, k)
        expected = stock.step(torch.tanh(expected), t, expected, return_dict=False)[0]

    torch.testing.assert_close(schedule.latents(state["sample"], 10, noise), expected, rtol=1e-3, atol=1e-3)


def test_a_schedule_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="3 sigmas, 3 timesteps"):
        Schedule(torch.tensor([1.0, 0.5, 0.0]), torch.ones(3))
    with pytest.raises(ValueError, match="pure noise has nothing of the data"):
        Schedule(torch.tensor([1.0, 0.0]), torch.ones(1), Prediction.EPSILON)
