"""What holds of steps that reuse, whatever the threshold; and of which steps have guidance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.events import Work
from easyanim_server.domain.job import Job
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.components import published_coefficients
from easyanim_server.engine.families.runtime import ExecutionPath, NetworkInputs
from easyanim_server.engine.guidance import SEQUENTIAL, StepExecution
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.step_cache.teacache import UNFITTED, StepCache, relative_change, resolve_coefficients
from tests.models import Broken, breaking, engine_of, make_job, make_modules, run

REUSING = 0.3
"""A threshold below which some steps of the tiny model stay and others do not."""


def job(steps: int = 8, **changes: object) -> Job:
    acceleration = Acceleration(**changes)  # type: ignore[arg-type]
    return replace(make_job(bucket="32x48x5", steps=steps), acceleration=acceleration)


def finish(engine: Engine, sampling: Sampling) -> Sampling:
    while not sampling.done:
        engine.step(sampling)
    return sampling


def test_a_cache_reuses_some_steps_and_counts_what_it_saves(engine: Engine) -> None:
    made = run(engine, job(cache_threshold=REUSING)).work

    assert 0 < made.reused_steps < 7
    assert made.predictions == 2 * (8 - made.reused_steps)
    assert made.cache_coefficients == UNFITTED
    assert run(engine, job()).work == Work(predictions=16)


def test_reuse_changes_the_video_but_little(engine: Engine) -> None:
    exact, cached = run(engine, job()).latents, run(engine, job(cache_threshold=REUSING)).latents

    assert not torch.equal(exact, cached)
    assert (exact - cached).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_a_cache_with_threshold_zero_changes_no_bit(engine: Engine, solver: Solver, guidance: float) -> None:
    plain = replace(job(4, solver=solver), guidance=guidance)
    cached = engine.begin(plain)
    cached.cache = StepCache(0.0, (0.0, 0.0, 0.0, 0.0, -1.0))

    assert torch.equal(finish(engine, cached).latents, run(engine, plain).latents)
    assert cached.reused == 0


def test_the_first_and_the_last_step_are_always_computed(engine: Engine) -> None:
    sampling = engine.begin(job(cache_threshold=10.0))
    reused = []
    while not sampling.done:
        engine.step(sampling)
        reused.append(sampling.reused)

    assert reused == [0, 1, 2, 3, 4, 5, 6, 6]
    assert sampling.predictions == 4


@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
def test_samplings_that_take_turns_reuse_as_each_does_alone(engine: Engine, solver: Solver) -> None:
    jobs = (
        job(solver=solver, cache_threshold=REUSING),
        replace(job(6, solver=solver, cache_threshold=1.0), seed=3),
        job(),
    )
    alone = [run(engine, job) for job in jobs]

    samplings = [engine.begin(job) for job in jobs]
    while not all(sampling.done for sampling in samplings):
        for sampling in samplings:
            if not sampling.done:
                engine.step(sampling)

    for sampling, expected in zip(samplings, alone, strict=True):
        assert torch.equal(sampling.latents, expected.latents)
        assert sampling.work == expected.work


@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
def test_a_sampling_that_was_saved_after_any_step_goes_on_as_if_it_had_not_been(solver: Solver, tmp_path: Path) -> None:
    given = job(6, solver=solver, cache_threshold=REUSING, guidance_end=0.7)
    undisturbed = run(engine_of(make_modules()), given)
    assert undisturbed.reused

    sampling, engine = engine_of(make_modules()).begin(given), engine_of(make_modules())
    for _ in range(given.steps):
        engine.save(sampling, tmp_path / "sampling")
        sampling = engine.resume(tmp_path / "sampling")
        engine.step(sampling)

    assert torch.equal(sampling.latents, undisturbed.latents)
    assert sampling.work == undisturbed.work


def test_a_step_that_failed_anywhere_is_taken_as_if_it_had_not_been_tried() -> None:
    modules = make_modules()
    engine = engine_of(modules)
    given = job(6, solver=Solver.UNIPC, cache_threshold=REUSING)
    expected = run(engine, given)

    sampling = engine.begin(given)
    failures = 0
    for module in (modules.transformer.proj, modules.transformer.norm_out, modules.transformer.proj_out) * 2:
        for after in (0, 1):
            with breaking(module, after=after):
                try:
                    engine.step(sampling)
                except Broken:
                    failures += 1
        if not sampling.done:
            engine.step(sampling)
        if sampling.done:
            break

    assert failures >= 6
    assert torch.equal(finish(engine, sampling).latents, expected.latents)
    assert sampling.work == expected.work


def test_the_ports_batch_of_two_reuses_the_same_steps() -> None:
    given = job(cache_threshold=REUSING)
    sequential, batched = (run(engine_of(make_modules(), mode), given) for mode in ("original", "diffusers"))

    assert batched.reused == sequential.reused > 0
    assert [residual.shape for residual in batched.cache.residuals] == [(1, 12, 128)] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize("placement", ["model_cpu_offload", "group_offload", "sequential_cpu_offload"])
def test_weights_that_come_and_go_change_nothing(engine: Engine, placement: str) -> None:
    given = job(4, cache_threshold=1.0)
    offloaded = run(engine_of(make_modules(), placement=placement), given)

    assert offloaded.reused == 2
    assert torch.equal(offloaded.latents, run(engine, given).latents)


def test_compiled_blocks_stand_still_in_steps_that_reuse(engine: Engine) -> None:
    """Dynamo alone, without a backend: it says what would be compiled, and steps forbid that anything is."""
    given = job(6, cache_threshold=REUSING)
    expected, sampling = run(engine, given), engine.begin(given)
    calls = 0

    def counted(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
        traced = torch.compile(block, backend="eager", fullgraph=True, dynamic=False)

        def call(*arguments: Any) -> Tensor:
            nonlocal calls
            calls += 1
            result: Tensor = traced(*arguments)
            return result

        return call

    path = ExecutionPath([counted(block) for block in engine.pipeline.denoiser.eager.blocks])
    with torch.no_grad():
        engine.predictor.predict(sampling.network_inputs(), sampling.prompts[:1], path)
    engine._executions[given.bucket], calls = StepExecution(path, SEQUENTIAL), 0

    result = finish(engine, sampling)

    assert result.work == expected.work
    assert calls == result.predictions * len(path.blocks)
    assert torch.equal(result.latents, expected.latents)


@pytest.mark.parametrize(
    ("start", "end", "predictions"), [(0.0, 1.0, 20), (0.0, 0.8, 18), (0.2, 1.0, 18), (0.1, 0.8, 17), (0.5, 0.5, 10)]
)
def test_steps_outside_of_the_interval_make_one_prediction(
    engine: Engine, start: float, end: float, predictions: int
) -> None:
    given = job(10, guidance_start=start, guidance_end=end)
    made = run(engine, given)

    assert made.predictions == given.predictions == predictions


def test_without_guidance_in_any_step_the_video_is_the_unguided_one(engine: Engine) -> None:
    never = run(engine, job(3, guidance_end=0.0))

    assert torch.equal(never.latents, run(engine, replace(job(3), guidance=1.0)).latents)


def test_where_guidance_begins_it_is_computed_and_where_it_ends_it_is_forgotten(
    engine: Engine,
) -> None:
    sampling = engine.begin(job(cache_threshold=10.0, guidance_start=0.25, guidance_end=0.75))
    kept, reused = [], []
    while not sampling.done:
        engine.step(sampling)
        kept.append(len(sampling.cache.residuals))  # type: ignore[union-attr]
        reused.append(sampling.reused)

    assert kept == [1, 1, 2, 2, 2, 2, 1, 1]
    assert reused == [0, 1, 1, 2, 3, 4, 5, 5]


def test_where_a_polynomial_leaves_its_range_the_change_itself_counts() -> None:
    cache = StepCache(0.1, published_coefficients(48, 48), drift=0.05)

    assert cache.drift_after(0.0) == pytest.approx(0.05 + 0.0136149)
    assert cache.drift_after(0.1) == pytest.approx(0.05 + 0.0818563464)
    assert cache.drift_after(1.0) == 1.05, "its value there is -2.2"
    assert not cache.drift_after(float("nan")) < 0.1


def test_the_measure_is_that_of_the_first_blocks_stock_norm(engine: Engine) -> None:
    modules = make_modules()
    predictor = engine_of(modules).predictor
    sampling = engine.begin(job(4))
    engine.step(sampling)
    later, t, before, t_before = (
        sampling.latents,
        sampling.schedule.timesteps[1:2],
        torch.randn(1, 16, 2, 4, 6),
        torch.tensor([900.0]),
    )

    def modulated(latents: Tensor, time: Tensor) -> Tensor:
        net = modules.transformer
        x = torch.cat((latents, sampling.inputs["inpaint"]), 1).transpose(1, 2).flatten(0, 1)
        video = net.proj(x).unflatten(0, (1, -1)).permute(0, 2, 1, 3, 4).flatten(2).transpose(1, 2)
        emb = net.time_embedding(net.time_proj(time))
        first: Tensor = net.transformer_blocks[0].norm1(video, video, emb)[0]
        return first

    with torch.no_grad():
        was = modulated(before, t_before)
        expected = (modulated(later, t) - was).abs().mean() / was.abs().mean()
        now, then = (
            predictor.first_input(NetworkInputs(latents, time, sampling.inputs))
            for latents, time in ((later, t), (before, t_before))
        )
        torch.testing.assert_close(relative_change(now, then), expected)


def test_published_models_have_upstreams_coefficients_and_others_none() -> None:
    assert published_coefficients(36, 18) == (1.07862322, -4.19362456, 3.06725828, 0.33161686, 0.02374758)
    assert published_coefficients(48, 48)[0] == -10.47857366
    assert published_coefficients(4, 2) == UNFITTED
    assert resolve_coefficients(None, (1.0, 2.0), "") == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read: No such file"),
        ("1, 2, 3", "was not written by fit-cache"),
        ('{"coefficients": [1, 2], "model_fingerprint": "ab"}', "must have 5 finite numbers"),
        ('{"coefficients": [1, 2, 3, 4, NaN], "model_fingerprint": "ab"}', "must have 5 finite numbers"),
        ('{"coefficients": [1, 2, 3, 4, 5], "model_fingerprint": "cd"}', "were fitted to the model cd…, this is ab…"),
    ],
)
def test_a_file_of_coefficients_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    file = tmp_path / "cache.json"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ConfigurationError, match=complaint):
        resolve_coefficients(file, UNFITTED, "ab")


def test_a_file_of_coefficients_goes_before_the_published_ones(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    file.write_text(json.dumps({"coefficients": [1, 2, 3, 4, 5], "model_fingerprint": "ab"}))

    assert resolve_coefficients(file, UNFITTED, "ab") == (1.0, 2.0, 3.0, 4.0, 5.0)
