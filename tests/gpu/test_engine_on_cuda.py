"""The engine on a CUDA device: compiled, in 8 bits, and without waiting for the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.weights import checkpoint

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BUCKET = Bucket.parse("192x320x13")
JOB = Job(
    "1", "a cat", "ugly", BUCKET, steps=4, guidance=6.0, seed=1,
    start=Picture(BUCKET.width, BUCKET.height, bytes(range(256)) * (3 * BUCKET.width * BUCKET.height // 256)),
)  # fmt: skip


def modules(size: str = "builtin:tiny") -> Components:
    if size == "builtin:tiny":
        loaded: Components = checkpoint.load(size, device=CUDA, dtype=torch.bfloat16)
        return loaded
    return builtin.synthetic("7b", device=CUDA, dtype=torch.bfloat16, text_layers=0)


def run(engine: Engine, job: Job = JOB) -> Sampling:
    sampling = engine.begin(job)
    while not sampling.done:
        engine.step(sampling)
    return sampling


@pytest.fixture(scope="module")
def eager() -> Engine:
    return Engine(EasyAnimatePipeline(modules()))


@pytest.fixture(scope="module", params=["bf16", "fp8"])
def seven(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The 7B shape on a small bucket, compiled, in either precision."""
    torch._dynamo.reset()
    engine = Engine(
        EasyAnimatePipeline(modules("synthetic:7b")), backend="inductor", precision=request.param, attention="auto"
    )
    engine.prepare([BUCKET])
    yield engine
    torch.cuda.empty_cache()


def test_the_same_job_gives_the_same_bits(eager: Engine) -> None:
    first, again = run(eager), run(eager)
    assert torch.equal(first.latents, again.latents)
    frames = [list(eager.decode(sampling)) for sampling in (first, again)]
    assert all((one == other).all() for one, other in zip(*frames, strict=True))


def test_compiled_buckets_pass_the_gate_and_never_compile_again(seven: Engine) -> None:
    readiness = seven.readiness(BUCKET)

    assert readiness.backend == "inductor", readiness.fallback
    assert readiness.attention in readiness.attention_milliseconds
    assert 0 < readiness.rounding_l2 < 0.05
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch.isfinite(run(seven).latents).all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_the_compiled_video_is_the_eager_one_up_to_rounding(eager: Engine) -> None:
    compiled = Engine(EasyAnimatePipeline(modules()), backend="inductor", attention="auto")
    (readiness,) = compiled.prepare([BUCKET])
    assert relative_l2(run(compiled).latents, run(eager).latents) < 20 * readiness.rounding_l2


def test_no_step_waits_for_the_device_but_for_the_step_before_it(seven: Engine) -> None:
    sampling = seven.begin(JOB)
    seven.step(sampling)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(3):
            seven.step(sampling)

    calls = {item.key: item.count for item in profiled.key_averages()}
    assert calls.get("cudaStreamSynchronize", 0) == 0
    assert calls.get("cudaDeviceSynchronize", 0) <= 1, "the profiler's own, at its end"
    assert calls.get("cudaEventSynchronize", 0) <= 3, "one a step: the step before it"
    assert not [name for name in calls if "Memcpy DtoH" in name or "Memcpy HtoD" in name]
    assert sampling.done


def test_phases_and_the_first_step_of_every_job_are_reported_when_they_are_done(seven: Engine) -> None:
    idle = torch.cuda.current_stream(CUDA).query
    done: dict[tuple[Phase, int], bool] = {}

    def observe(phase: Phase, completed: int, total: int) -> None:
        if completed == total:
            done[phase, completed] = idle()

    for number in range(2):
        sampling = seven.begin(replace(JOB, prompt=f"cat {number}"), observe)
        seven.step(sampling)
        assert idle()
        assert seven.work(sampling).running_steps == 0
        seven.step(sampling)
        assert seven.work(sampling).running_steps == 1
        while not sampling.done:
            seven.step(sampling)
        assert idle()
        assert seven.work(sampling).running_steps == 0
    assert done == {(Phase.TEXT_ENCODE, 2): True, (Phase.IMAGE_ENCODE, BUCKET.frames): True}


def test_guidance_in_a_batch_of_two_is_compiled_before_requests() -> None:
    together = Engine(EasyAnimatePipeline(modules()), backend="inductor", guidance_batch="2")
    (readiness,) = together.prepare([BUCKET])

    assert (readiness.backend, readiness.guidance_batch, readiness.fallback) == ("inductor", 2, "")
    assert torch.isfinite(run(together).latents).all()


def test_peak_memory_is_that_of_the_job(eager: Engine) -> None:
    eager.peak_bytes(reset=True)
    before = eager.peak_bytes()
    run(eager)
    assert eager.peak_bytes() > before > 0


def test_a_step_that_may_reuse_waits_for_one_number_and_compiles_nothing(seven: Engine) -> None:
    sampling = seven.begin(replace(JOB, steps=6, acceleration=Acceleration(Solver.UNIPC, cache_threshold=10.0)))
    seven.step(sampling)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(4):
            seven.step(sampling)
    seven.step(sampling)

    calls = {item.key: item.count for item in profiled.key_averages()}
    assert sum(count for name, count in calls.items() if "Memcpy DtoH" in name) == 4
    assert (sampling.reused, sampling.predictions) == (4, 4)
    assert torch.isfinite(sampling.latents).all()


@pytest.mark.parametrize("placement", ["model_cpu_offload", "group_offload"])
def test_a_cache_reuses_the_same_steps_where_weights_come_and_go(eager: Engine, placement: str) -> None:
    job = replace(JOB, steps=8, acceleration=Acceleration(cache_threshold=0.3))
    resident, moved = run(eager, job), run(Engine(EasyAnimatePipeline(modules()), placement=placement), job)

    assert moved.reused == resident.reused > 0
    assert torch.equal(moved.latents, resident.latents)


def test_a_probe_tells_a_broken_device_from_a_job_that_failed() -> None:
    # In a process of its own: the fault is for good.
    script = """
import torch
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

engine = Engine(EasyAnimatePipeline(checkpoint.load("builtin:tiny", device=torch.device("cuda"), dtype=torch.bfloat16)))
try:
    torch.ones(1, device="cuda") @ torch.ones(2, device="cuda")
except RuntimeError:
    engine.probe()
    print("a wrong shape is no broken device")
try:
    print(torch.arange(4, device="cuda")[torch.tensor([9], device="cuda")].tolist())
except RuntimeError:
    pass
try:
    engine.probe()
except RuntimeError:
    print("an index out of bounds is one")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines() == ["a wrong shape is no broken device", "an index out of bounds is one"], ended
