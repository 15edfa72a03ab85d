"""A sampling that is saved after any step goes on in another engine to the bits that it would have had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from easyanim_server.domain.job import Job
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.snapshot import FORMAT, SnapshotError
from tests.models import engine_of, make_job, make_modules, make_pipeline, run

STEPS = 5
GUIDANCE = {"off": {}, "sequential": {}, "interval": {"guidance_start": 0.25, "guidance_end": 0.75}}


@pytest.fixture(scope="module")
def networks() -> tuple[Components, Components]:
    return make_modules(make_pipeline(2, 1)), make_modules(make_pipeline(2, 1))


def job(solver: Solver, threshold: float, guidance: str, pictures: int) -> Job:
    plain = make_job(bucket="32x48x5", steps=STEPS, pictures=pictures, guidance=1.0 if guidance == "off" else 6.0)
    return replace(plain, acceleration=Acceleration(solver, cache_threshold=threshold, **GUIDANCE[guidance]))


@pytest.mark.parametrize("pictures", [0, 1], ids=["text", "start image"])
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["no cache", "cache"])
@pytest.mark.parametrize("solver", Solver, ids=lambda solver: solver.value)
def test_saved_at_every_step_it_is_resumed_to_the_same_bits(
    networks: tuple[Components, Components],
    tmp_path: Path,
    solver: Solver,
    threshold: float,
    guidance: str,
    pictures: int,
) -> None:
    engine, given = engine_of(networks[0]), job(solver, threshold, guidance, pictures)
    sampling = engine.begin(given)
    for index in range(STEPS + 1):
        engine.save(sampling, tmp_path / str(index))
        if not sampling.done:
            engine.step(sampling)
    assert bool(sampling.reused) is bool(threshold)

    assert {file.name for file in tmp_path.iterdir()} == {str(index) for index in range(STEPS + 1)}
    for index in range(STEPS + 1):
        fresh = engine_of(networks[1])
        resumed = fresh.resume(tmp_path / str(index))
        assert (resumed.index, resumed.seed, resumed.bucket) == (index, given.seed, given.bucket)
        while not resumed.done:
            fresh.step(resumed)
        assert torch.equal(resumed.latents, sampling.latents)
        assert (resumed.work, resumed.fingerprint()) == (sampling.work, sampling.fingerprint())


def test_bfloat16_and_the_ports_batch_of_two_are_kept_to_the_bit(tmp_path: Path) -> None:
    pipeline = make_pipeline(2, 1)
    for network in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        network.to(torch.bfloat16)
    modules, given = make_modules(pipeline), job(Solver.UNIPC, 10.0, "sequential", 1)
    engine = engine_of(modules, "diffusers")
    expected, sampling = run(engine, given), engine.begin(given)
    engine.step(sampling)
    engine.step(sampling)
    engine.save(sampling, tmp_path / "sampling")
    fresh = engine_of(modules, "diffusers")
    resumed = fresh.resume(tmp_path / "sampling")
    while not resumed.done:
        fresh.step(resumed)

    assert resumed.latents.dtype is torch.bfloat16
    assert torch.equal(resumed.latents, expected.latents)


def test_a_saved_sampling_goes_on_as_if_it_had_not_been_saved(
    networks: tuple[Components, Components], tmp_path: Path
) -> None:
    engine, given = engine_of(networks[0]), job(Solver.DPMPP_2M, 1.0, "interval", 0)
    expected, sampling = run(engine, given), engine.begin(given)
    while not sampling.done:
        engine.save(sampling, tmp_path / "sampling")
        engine.step(sampling)

    assert torch.equal(sampling.latents, expected.latents)


def test_it_is_one_file_of_plain_tensors_and_json(networks: tuple[Components, Components], tmp_path: Path) -> None:
    engine = engine_of(networks[0])
    engine.save(engine.begin(job(Solver.UNIPC, 1.0, "sequential", 1)), tmp_path / "sampling")

    with safe_open(tmp_path / "sampling", framework="pt") as opened:
        names, metadata = set(opened.keys()), opened.metadata()
    assert names == {
        "latents", "inputs.inpaint", "conditions.prompt.text", "conditions.negative_prompt.text",
        "schedule.sigmas", "schedule.timesteps", "solver.sample",
    }  # fmt: skip
    header = json.loads(metadata["header"])
    assert (metadata["format"], header["version"]) == (FORMAT, 1)
    assert header["model"] == {
        "fingerprint": engine.model.fingerprint, "attention_mode": "original", "dtype": "float32",
    }  # fmt: skip
    assert header["sampling"]["bucket"] == {"height": 32, "width": 48, "frames": 5}


def test_a_file_that_cannot_be_resumed_is_refused_with_the_reason(
    networks: tuple[Components, Components], tmp_path: Path
) -> None:
    engine, file = engine_of(networks[0]), tmp_path / "sampling"
    engine.save(engine.begin(job(Solver.EULER, 0.0, "off", 0)), file)
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name).clone() for name in opened.keys()}, opened.metadata()  # noqa: SIM118

    for other, complaint in (
        (engine_of(make_modules()), "was saved with fingerprint"),
        (engine_of(make_modules(make_pipeline(2, 1)), "diffusers"), "attention_mode 'original'; this model has 'diff"),
    ):
        with pytest.raises(SnapshotError, match=complaint):
            other.resume(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SnapshotError, match="is no snapshot, or is damaged"):
        engine.resume(file)
    save_file(tensors, file)
    with pytest.raises(SnapshotError, match="its format is None"):
        engine.resume(file)
    header = json.loads(metadata["header"])
    save_file(tensors, file, metadata={**metadata, "header": json.dumps({**header, "version": 2})})
    with pytest.raises(SnapshotError, match="has version 2; this server reads version 1"):
        engine.resume(file)
    del tensors["latents"]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(SnapshotError, match="'latents'"):
        engine.resume(file)
    with pytest.raises(FileNotFoundError):
        engine.resume(tmp_path / "nothing")
