"""What is no number ends where it appears: a bucket is refused, a job fails, and nothing looks right."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from google.rpc import code_pb2, error_details_pb2, status_pb2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, NonFinite
from easyanim_server.domain.events import Chunk, Completed
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.compile.numeric_check import NumericCheck
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.weights import checkpoint
from easyanim_server.rpc.status import to_status
from easyanim_server.workers.main import start
from easyanim_server.workers.runner import JobRunner
from tests.models import engine_of, make_job, make_modules, run

BUCKET = Bucket.parse("32x48x5")

WEIGHTS: dict[str, Callable[[Components], Tensor]] = {
    "transformer": lambda modules: modules.transformer.transformer_blocks[1].attn1.to_q.weight,
    "text encoder": lambda modules: modules.text_encoder.model.layers[0].mlp.down_proj.weight,  # type: ignore[union-attr, index]
    "VAE's encoder": lambda modules: modules.vae.encoder.conv_in.weight,
    "VAE's decoder": lambda modules: modules.vae.decoder.conv_out.weight,
}


@contextmanager
def spoiling(module: nn.Module, call: int, value: float = math.nan) -> Iterator[SimpleNamespace]:
    """Put one value into what `module` returns in its call of that number, from 1; counts its calls."""
    seen = SimpleNamespace(calls=0)

    def spoil(_: nn.Module, given: object, result: Tensor) -> Tensor:
        seen.calls += 1
        if seen.calls == call:
            result = result.clone()
            result.view(-1)[7] = value
        return result

    handle = module.register_forward_hook(spoil)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", WEIGHTS)
def test_a_bucket_is_refused_where_one_weight_is_no_number(place: str, value: float) -> None:
    modules = make_modules()
    WEIGHTS[place](modules).data.view(-1)[3] = value

    with pytest.raises(ConfigurationError, match=r"bucket 32x48x5 cannot be served.* are NaN or infinite"):
        engine_of(modules).prepare([BUCKET])


def test_a_compiled_bucket_is_refused_by_what_it_is_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *given: forward(*given).nan_to_num())
    modules = make_modules()
    WEIGHTS["transformer"](modules).data.view(-1)[3] = math.nan

    with pytest.raises(ConfigurationError, match="of the eager network's prediction are NaN or infinite"):
        engine_of(modules, backend="inductor").prepare([BUCKET])


def test_a_worker_never_says_that_it_is_ready_with_such_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.export("builtin:tiny", tmp_path / "model")
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["transformer_blocks.2.ff.net.2.weight"][0, 0] = math.nan
    save_file(weights, file, metadata={"format": "pt"})
    settings = Settings(
        model=str(tmp_path / "model"), device="cpu", buckets=(Bucket.parse("32x48x5"),), backend=Backend.EAGER
    )
    ours, theirs = multiprocessing.Pipe()

    with pytest.raises(ConfigurationError, match="bucket 32x48x5 cannot be served"):
        start(theirs, settings, "easyanim_server.engine.engine:Engine.from_settings")
    theirs.close()

    said = []
    with pytest.raises(EOFError):
        while True:
            said.append(type(ours.recv()).__name__)
    assert set(said) == {"Starting"}


def test_nothing_is_as_good_as_the_eager_network_that_is_no_number() -> None:
    nothing = torch.full((3,), math.nan)

    for reference in (None, nothing, torch.ones(3)):
        gate = NumericCheck(reference, 1e-5, 4.0)
        assert not gate.cosine(nothing) > 0
        with pytest.raises(ArithmeticError, match="100 % of the prediction are NaN"):
            gate.check(nothing)


@pytest.fixture(scope="module")
def modules() -> Components:
    return make_modules()


WAYS = {
    "euler": Acceleration(),
    "unipc": Acceleration(Solver.UNIPC),
    "dpmpp_2m": Acceleration(Solver.DPMPP_2M),
    "step cache": Acceleration(cache_threshold=0.9),
    "guidance at the end alone": Acceleration(guidance_start=0.5),
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_gives_no_numbers_in_mid_run_ends_the_job(modules: Components, way: str, value: float) -> None:
    engine = engine_of(modules)
    job = replace(make_job(bucket="32x48x5", steps=6), acceleration=WAYS[way])

    with spoiling(modules.transformer.proj_out, 4, value) as seen:
        sampling = run(engine, job)
    assert seen.calls > 4
    with pytest.raises(NonFinite, match="of the latents are NaN or infinite"):
        next(engine.decode(sampling))

    assert np.concatenate(list(engine.decode(run(engine, job)))).std() > 0, "the next job is none the worse"


def test_a_compiled_bucket_that_makes_both_predictions_at_once_ends_the_job_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    modules = make_modules()
    engine = engine_of(modules, backend="inductor", guidance_batch="2")
    (readiness,) = engine.prepare([BUCKET])
    assert (readiness.backend, readiness.guidance_batch) == ("inductor", 2)

    with spoiling(modules.transformer.proj_out, 2):
        sampling = run(engine, make_job(bucket="32x48x5", steps=4))
    with pytest.raises(NonFinite):
        next(engine.decode(sampling))


def test_a_job_without_numbers_leaves_no_file(modules: Components) -> None:
    said: list[object] = []
    with spoiling(modules.transformer.proj_out, 3), pytest.raises(NonFinite):
        JobRunner(engine_of(modules), make_job(steps=3), said.append, lambda: None).run()

    assert not any(isinstance(event, (Chunk, Completed)) for event in said)


def test_frames_without_numbers_are_not_shown(modules: Components) -> None:
    engine = engine_of(modules)
    sampling = run(engine, make_job())
    frames = engine.decode(sampling)
    assert len(next(frames)) == 1

    norm = modules.vae.decoder.conv_norm_out
    kept = norm.bias.data.clone()
    norm.bias.data[0] = math.nan
    try:
        with pytest.raises(NonFinite, match="of the decoded values are NaN or infinite"):
            next(frames)
    finally:
        norm.bias.data.copy_(kept)
    assert len(np.concatenate(list(engine.decode(sampling)))) == 9


def test_pictures_that_are_encoded_to_no_numbers_end_the_job_before_its_first_step() -> None:
    modules = make_modules()
    modules.vae.quant_conv.bias.data[2] = math.inf

    with pytest.raises(NonFinite, match="of the pictures' latents"):
        engine_of(modules).begin(make_job())


def test_an_embedding_without_numbers_is_not_remembered(modules: Components) -> None:
    engine = engine_of(modules)
    with spoiling(modules.text_encoder, 1), pytest.raises(NonFinite, match="of the prompt's embedding"):
        engine.begin(make_job())

    assert run(engine, make_job()).latents.isfinite().all()


def test_callers_see_a_reason_of_its_own() -> None:
    status = status_pb2.Status()
    (_, packed), *_ = to_status(NonFinite("100 % of the latents are NaN or infinite")).trailing_metadata
    status.ParseFromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)

    assert (status.code, info.reason, info.domain) == (code_pb2.INTERNAL, "NON_FINITE", "easyanim")
