"""Buckets are built, checked against the eager network, and never compiled again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.compile import planner as plans
from easyanim_server.engine.compile.backends import Backends
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.runtime import ExecutionPath
from tests.models import engine_of, make_job, make_modules, make_pipeline, run

SMALL, LARGE = Bucket.parse("32x48x5"), Bucket.parse("48x32x9")


def engine(backend: str, **options: Any) -> Engine:
    return engine_of(make_modules(make_pipeline(2, 1)), backend=backend, **options)


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def compiled() -> Iterator[Engine]:
    torch._dynamo.reset()
    counters.clear()
    made = engine("inductor")
    made.prepare([LARGE, SMALL])
    yield made
    torch._dynamo.reset()


def test_every_bucket_says_how_it_is_served(compiled: Engine) -> None:
    for bucket in (SMALL, LARGE):
        readiness = compiled.readiness(bucket)
        assert (readiness.backend, readiness.precision, readiness.attention) == ("inductor", "float32", "torch")
        assert readiness.build_seconds > readiness.prediction_seconds > 0
        assert 0 <= readiness.relative_l2 < 1e-5
        assert readiness.cosine == pytest.approx(1, abs=1e-6)
        assert readiness.fallback == ""


def test_the_compiled_path_gives_the_eager_paths_video_up_to_rounding(compiled: Engine) -> None:
    job = make_job(bucket=str(LARGE), steps=3)

    expected = run(engine("eager"), job).latents

    assert relative_l2(run(compiled, job).latents, expected) < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("bucket", [SMALL, LARGE])
def test_no_request_ever_compiles(compiled: Engine, bucket: Bucket, guidance: float) -> None:
    before = compilations()
    assert before == 4, "two kinds of block in two shapes"

    for steps in (1, 3):
        run(compiled, make_job(bucket=str(bucket), steps=steps, guidance=guidance))

    assert compilations() == before


def test_a_shape_that_was_not_prepared_runs_eagerly(compiled: Engine) -> None:
    before = compilations()
    other = Bucket.parse("32x32x5")

    run(compiled, make_job(bucket=str(other)))

    assert compilations() == before
    assert compiled.readiness(other).backend == "eager"


def fails(*_: Any, **__: Any) -> Callable[..., Tensor]:
    raise RuntimeError("a compiler that breaks")


def test_a_backend_that_fails_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", fails)

    (readiness,) = engine("inductor").prepare([SMALL])

    assert readiness.backend == "eager"
    assert readiness.fallback == "inductor: RuntimeError: a compiler that breaks"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(lambda x: x * 1.01, "the gate is"), (lambda x: x * float("nan"), "100 % of the prediction are NaN or infinite")],
    ids=["off by 1 %", "NaN"],
)
def test_a_path_that_computes_something_else_is_refused_by_the_gate(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor], why: str
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *given: spoil(forward(*given)))

    (readiness,) = engine("inductor").prepare([SMALL])

    assert readiness.backend == "eager"
    assert why in readiness.fallback


def test_guidance_in_a_batch_of_two_is_guidance() -> None:
    job = make_job(bucket=str(SMALL), steps=3, guidance=6.0)
    expected = run(engine("eager"), job).latents
    together = engine("eager", guidance_batch="2")
    (readiness,) = together.prepare([SMALL])

    assert readiness.guidance_batch == 2
    assert relative_l2(run(together, job).latents, expected) < 1e-4


def test_a_compiled_batch_of_two_is_ready_before_the_first_request() -> None:
    torch._dynamo.reset()
    counters.clear()
    together = engine("inductor", guidance_batch="2")
    (readiness,) = together.prepare([SMALL])
    before = compilations()

    for guidance in (1.0, 6.0):
        run(together, make_job(bucket=str(SMALL), steps=2, guidance=guidance))

    assert (readiness.backend, readiness.guidance_batch, readiness.fallback) == ("inductor", 2, "")
    assert compilations() == before
    torch._dynamo.reset()


def test_a_batch_of_two_that_computes_something_else_is_refused_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = Backends.predict

    def spoiled(self: Backends, bucket: Bucket, path: ExecutionPath, batch: int = 1) -> Tensor:
        return predict(self, bucket, path, batch) * (1.01 if batch == 2 else 1)

    monkeypatch.setattr(Backends, "predict", spoiled)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    (readiness,) = engine("inductor", guidance_batch="2").prepare([SMALL])

    assert (readiness.backend, readiness.guidance_batch) == ("inductor", 1)
    assert readiness.fallback.startswith("guidance in a batch of two: ArithmeticError: relative L2 0.01 from the eager")


def test_restarts_choose_as_the_first_start_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "_place", tmp_path)
    job = make_job(bucket=str(SMALL), steps=2)
    videos = []
    for times, convolves in (({"torch": 9.0, "convolution": 1.0}, True), ({"torch": 1.0, "convolution": 9.0}, False)):
        monkeypatch.setattr(attention, "measure", lambda *_, times=times: times)
        monkeypatch.setattr(plans, "convolving_is_faster", lambda dtype, convolves=convolves: convolves)
        made = engine("eager", attention="auto")
        (readiness,) = made.prepare([SMALL])
        assert readiness.attention == "convolution"
        videos.append(run(made, job).latents)

    assert torch.equal(*videos)


def test_a_kernel_that_lacked_memory_at_one_start_is_measured_at_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def short(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(cache, "_place", tmp_path)
    measured = []
    for kernel in (lambda: short, attention._KERNELS["torch"]):
        monkeypatch.setitem(attention._KERNELS, "convolution", kernel)
        (readiness,) = engine("eager", attention="auto").prepare([SMALL])
        measured.append(set(readiness.attention_milliseconds))

    assert measured == [{"torch"}, {"torch", "convolution"}]


def test_on_the_cpu_predictions_are_made_one_by_one_unless_told_otherwise() -> None:
    (readiness,) = engine("eager", guidance_batch="auto").prepare([SMALL])

    assert readiness.guidance_batch == 1


def test_buckets_are_prepared_once() -> None:
    made = engine("eager")
    made.prepare([SMALL])
    with pytest.raises(RuntimeError, match="once, all together"):
        made.prepare([LARGE])


def test_eager_buckets_cost_no_comparison() -> None:
    (readiness,) = engine("eager").prepare([SMALL])

    assert (readiness.backend, readiness.relative_l2, readiness.rounding_l2) == ("eager", 0.0, 0.0)


def test_buckets_are_built_from_the_fewest_tokens_up_and_every_stage_is_said() -> None:
    said: list[str] = []
    order = engine("eager").prepare([LARGE, SMALL, LARGE], said.append)

    assert [item.bucket for item in order] == [LARGE, SMALL], "answers keep the order of the question"
    assert [line.split()[1] for line in said if line.startswith("building")] == [str(SMALL), str(LARGE)]


def test_fp8_is_refused_where_the_device_has_none() -> None:
    with pytest.raises(ConfigurationError, match=r"fp8 tensor cores.*use bf16"):
        engine("eager", precision="fp8")


def test_a_kernel_that_cannot_run_here_is_refused_with_those_that_can() -> None:
    offered = "torch, math, convolution"
    with pytest.raises(ConfigurationError, match=rf"'fa4' cannot run here; must be auto or one of {offered}$"):
        engine("eager", attention="fa4")


def test_bfloat16_rounding_is_measured_against_float32() -> None:
    pipeline = make_pipeline(2, 1)
    for network in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        network.to(torch.bfloat16)
    made = engine_of(make_modules(pipeline), backend="inductor")
    (readiness,) = made.prepare([SMALL])

    assert readiness.backend == "inductor", readiness.fallback
    assert 1e-3 < readiness.rounding_l2 < 0.1
    assert readiness.relative_l2 < 3 * readiness.rounding_l2
