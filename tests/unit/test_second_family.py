"""The engine runs a family of another geometry, other names and another kind of prediction as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.runtime import Pipeline
from easyanim_server.engine.snapshot import SnapshotError
from easyanim_server.workers.runner import JobRunner
from tests.fakes.second_family import SecondPipeline
from tests.models import engine_of, make_job, make_modules, run

BUCKET = Bucket(16, 24, 7)
JOB = Job("1", "a cat", "ugly", BUCKET, steps=6, guidance=3.0, seed=1)


def second(**options: object) -> Engine:
    pipeline: Pipeline = SecondPipeline()
    return Engine(pipeline, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prepared() -> Engine:
    engine = second()
    engine.prepare([BUCKET])
    return engine


def test_its_buckets_are_prepared_and_its_frames_come_in_its_own_groups(prepared: Engine) -> None:
    status = prepared.readiness(BUCKET)
    frames = list(prepared.decode(run(prepared, JOB)))

    assert (status.backend, status.precision, status.fallback) == ("eager", "float32", "")
    assert status.prediction_seconds > 0
    assert [len(group) for group in frames] == [1, 2, 2, 2]
    assert np.concatenate(frames).shape == (7, 16, 24, 3)
    assert np.concatenate(frames).std() > 10


@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
def test_every_solver_goes_to_where_many_steps_go(prepared: Engine, solver: Solver) -> None:
    def made(steps: int, name: Solver = solver) -> torch.Tensor:
        return run(prepared, replace(JOB, steps=steps, acceleration=Acceleration(name))).latents

    exact = made(300, Solver.UNIPC)
    few, more = ((made(steps) - exact).norm() / exact.norm() for steps in (10, 40))

    assert more < few / 2
    assert more < 0.1


def test_prompt_picture_seed_guidance_and_cache_count(prepared: Engine) -> None:
    start = Picture(24, 16, bytes(3 * 24 * 16))
    jobs = [
        JOB,
        replace(JOB, prompt="a dog"),
        replace(JOB, start=start),
        replace(JOB, seed=2),
        replace(JOB, guidance=1.0),
        replace(JOB, acceleration=Acceleration(cache_threshold=0.5)),
    ]
    samplings = [run(prepared, job) for job in jobs]

    assert len({sampling.fingerprint() for sampling in samplings}) == len(jobs)
    assert samplings[-1].reused > 0


def test_both_ways_of_guidance_agree_and_every_placement_gives_the_same_bits(prepared: Engine) -> None:
    expected = run(prepared, JOB).latents
    together = second(guidance_batch="2")
    (status,) = together.prepare([BUCKET])

    assert status.guidance_batch == 2
    torch.testing.assert_close(run(together, JOB).latents, expected, rtol=1e-4, atol=1e-4)
    for placement in ("model_cpu_offload", "group_offload", "sequential_cpu_offload"):
        assert torch.equal(run(second(placement=placement), JOB).latents, expected)


def test_it_is_saved_and_resumed_to_the_same_bits_and_by_its_own_model_alone(prepared: Engine, tmp_path: Path) -> None:
    job = replace(JOB, acceleration=Acceleration(Solver.UNIPC, cache_threshold=0.5))
    expected, sampling = run(prepared, job), prepared.begin(job)
    for _ in range(3):
        prepared.step(sampling)
    prepared.save(sampling, tmp_path / "sampling")
    other = second()
    resumed = other.resume(tmp_path / "sampling")
    while not resumed.done:
        other.step(resumed)

    assert torch.equal(resumed.latents, expected.latents)
    assert resumed.work == expected.work
    with pytest.raises(SnapshotError, match="was saved with fingerprint 'second'"):
        engine_of(make_modules()).resume(tmp_path / "sampling")


def test_a_worker_runs_its_jobs_to_a_file(prepared: Engine) -> None:
    said: list[object] = []
    JobRunner(prepared, make_job(bucket="32x48x9"), said.append, lambda: None).run()

    assert type(said[-1]).__name__ == "Completed"
    assert any(getattr(event, "phase", None) is Phase.IMAGE_ENCODE for event in said)
