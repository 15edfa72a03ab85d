"""From noise to latents: begin, step, step, ... Free functions on a `Sampling`, which holds all state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from easyanim_server.domain.job import Job
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine.families.runtime import Condition, Need, Pipeline
from easyanim_server.engine.guidance import UNGUIDED, Guidance, StepExecution
from easyanim_server.engine.prediction import Predictor
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.solvers.registry import SOLVERS
from easyanim_server.engine.step_cache.teacache import UNFITTED, StepCache, relative_change


@torch.no_grad()
def begin(
    pipeline: Pipeline,
    job: Job,
    conditions: Mapping[str, Condition],
    need: Need,
    observe: Observer,
    coefficients: tuple[float, ...] = UNFITTED,
    noise: Mapping[str, Tensor] | None = None,
) -> Sampling:
    """Draw the noise and encode the given pictures.

    Args:
        pipeline: The model.
        job: Its bucket, pictures, steps, guidance, seed and accelerators are used.
        conditions: Embeddings of the prompt, and of the negative prompt where guidance is on.
        need: Brings components to the device.
        observe: Called while pictures are encoded; may raise to leave.
        coefficients: Of the step cache's polynomial.
        noise: What to start from; by default drawn from the job's seed.

    Raises:
        ValueError: the job contradicts itself, or asks for what the model cannot make.
    """
    noise = pipeline.draw(job) if noise is None else noise
    inputs = pipeline.encode_inputs(job, noise, need, observe)
    latents = noise["latents"].to(pipeline.device, pipeline.dtype)
    acceleration = job.acceleration
    schedule = pipeline.schedule(job.steps, acceleration.solver)
    threshold = acceleration.cache_threshold
    return Sampling(
        latents=latents,
        conditions=conditions,
        inputs=inputs,
        bucket=job.bucket,
        guidance=job.guidance,
        guidance_rescale=job.guidance_rescale,
        seed=job.seed,
        schedule=schedule,
        solver_state=SOLVERS[acceleration.solver].start(latents, schedule),
        acceleration=acceleration,
        cache=StepCache(threshold, coefficients) if threshold else None,
    )


@torch.no_grad()
def step(predictor: Predictor, sampling: Sampling, execution: StepExecution) -> None:
    """Take one step; where it fails, it can be taken again as if it had not been tried.

    Nothing here waits for the device, but for a step that may reuse: whether it does is for the host to know.

    Raises:
        ValueError: all steps are taken.
    """
    if sampling.done:
        raise ValueError(f"no step of {sampling.steps} is left")
    guidance = execution.guidance if sampling.guided else UNGUIDED
    drift = drift_of_reuse(predictor, sampling, guidance)
    with no_compilation():
        if drift is None:
            predictions, residuals = _predict(predictor, sampling, guidance, execution)
        else:
            predictions, residuals = _reuse(predictor, sampling, guidance)
    output = guidance.combine(predictions, sampling.guidance, sampling.guidance_rescale)
    solver, k = SOLVERS[sampling.acceleration.solver], sampling.index
    state = solver.step(sampling.solver_state, output, sampling.schedule, k)
    latents = sampling.schedule.latents(state["sample"], k + 1, like=sampling.latents)
    if sampling.cache is not None:
        sampling.cache.keep(sampling.latents, drift, residuals)
    sampling.solver_state, sampling.latents, sampling.index = state, latents, k + 1
    sampling.predictions += 0 if drift is not None else guidance.predictions
    sampling.reused += 0 if drift is None else 1


@torch.no_grad()
def change(predictor: Predictor, sampling: Sampling) -> float:
    """How much the first block's input has changed since the step before: relative L1. Waits for it.

    Raises:
        ValueError: there was none, or there is no cache.
    """
    cache = sampling.cache
    if cache is None or cache.before is None:
        raise ValueError("there is no step before to compare with")
    before = predictor.first_input(sampling.inputs_before(cache.before))
    return float(relative_change(predictor.first_input(sampling.network_inputs()), before))


def drift_of_reuse(predictor: Predictor, sampling: Sampling, guidance: Guidance) -> float | None:
    """The cache's drift after a step that reuses its predictions; None where they are to be made.

    Always made are those of the first and of the last step, and where one is missing: guidance has just begun.
    """
    cache, last = sampling.cache, sampling.index + 1 == sampling.steps
    if cache is None or cache.before is None or last or len(cache.residuals) < guidance.predictions:
        return None
    drift = cache.drift_after(change(predictor, sampling))
    return drift if drift < cache.threshold else None  # where it is not a number too


def _predict(
    predictor: Predictor, sampling: Sampling, guidance: Guidance, execution: StepExecution
) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions, and what the cache is to keep of them: nothing where there is none."""
    residuals: list[Tensor] | None = None
    if sampling.cache is not None:
        # What was kept goes first: its memory is needed, and without it a step that failed is computed again.
        sampling.cache.residuals, residuals = [], []
    inputs = sampling.network_inputs()
    return guidance.predict(predictor, inputs, sampling.prompts, execution.path, residuals), residuals or []


def _reuse(predictor: Predictor, sampling: Sampling, guidance: Guidance) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions without the blocks, and the residuals that they were made of."""
    assert sampling.cache is not None
    residuals = sampling.cache.residuals[: guidance.predictions]
    return predictor.reuse(sampling.network_inputs(), sampling.prompts[0], residuals), residuals


@contextmanager
def no_compilation() -> Iterator[None]:
    """Make a recompilation an error: everything that requests need was compiled before the first one came."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield
