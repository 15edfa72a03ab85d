"""Every placement gives the same video, and gives the device's memory back whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch._dynamo.utils import counters

from easyanim_server.domain.errors import ConfigurationError, OutOfDeviceMemory
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.placement import PlacementSetting, WeightPlacement
from easyanim_server.engine.compile.numeric_check import FACTORS
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from tests import models
from tests.models import Broken, breaking, engine_of, make_modules, make_pipeline, run

EXACT = ("full", "model_cpu_offload", "group_offload", "sequential_cpu_offload")
IN_8_BITS = ("full_and_qfloat8", "model_cpu_offload_and_qfloat8")
BUCKET = Bucket.parse("32x48x5")


def make_engine(placement: str, modules: Components | None = None, **options: Any) -> Engine:
    precision = "fp8-weights" if placement in IN_8_BITS else "bf16"
    modules = modules or make_modules(make_pipeline(2, 1))
    return engine_of(modules, placement=placement, precision=precision, **options)


def render(engine: Engine, job: Job) -> NDArray[np.uint8]:
    return np.concatenate(list(engine.decode(run(engine, job))))


def make_job(**changes: Any) -> Job:
    """A start picture, two steps with guidance."""
    return models.make_job(**{"bucket": str(BUCKET), **changes})


def denoiser_of(engine: Engine) -> EasyAnimateDenoiser:
    denoiser = engine.pipeline.denoiser
    assert isinstance(denoiser, EasyAnimateDenoiser)
    return denoiser


def on_the_device(engine: Engine) -> int:
    """Weights that are not in the parcels' own memory: on the CPU, what stands for the device's memory."""
    homes = []
    for part in engine.placement._parts.values():
        homes += [(parcel.host.data_ptr(), parcel.host.data_ptr() + parcel.nbytes) for parcel in part.parcels]
    weights = [tensor for network in engine.placement._networks for tensor in network.parameters() if tensor.numel()]
    return sum(not any(start <= tensor.data_ptr() < end for start, end in homes) for tensor in weights)


@pytest.fixture(scope="module", params=["eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    torch._dynamo.reset()
    yield request.param
    torch._dynamo.reset()
    counters.clear()  # other tests count compilations


@pytest.fixture(scope="module")
def expected(backend: str) -> NDArray[np.uint8]:
    """What `full` makes of `make_job(pictures=2)`."""
    engine = make_engine("full", backend=backend)
    engine.prepare([BUCKET])
    return render(engine, make_job(pictures=2))


@pytest.mark.parametrize("placement", EXACT[1:])
def test_every_placement_gives_the_video_of_full_to_the_bit_and_never_compiles_again(
    backend: str, expected: NDArray[np.uint8], placement: str
) -> None:
    engine = make_engine(placement, backend=backend)
    (readiness,) = engine.prepare([BUCKET])
    before = counters["stats"]["unique_graphs"]

    assert (readiness.backend, readiness.fallback, readiness.placement) == (backend, "", placement)
    for _ in range(2):
        assert np.array_equal(render(engine, make_job(pictures=2)), expected)
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("placement", ["full_and_qfloat8", "group_offload", "model_cpu_offload_and_qfloat8"])
def test_weights_in_8_bits_take_half_the_room_and_pass_the_gate(
    backend: str, expected: NDArray[np.uint8], placement: str
) -> None:
    engine = make_engine(placement, backend=backend) if placement in IN_8_BITS else engine_of(
        make_modules(make_pipeline(2, 1)), placement=placement, precision="fp8-weights", backend=backend
    )  # fmt: skip
    blocks = engine.placement._parts["transformer"].units
    before = sum(block.nbytes for block in blocks)
    (readiness,) = engine.prepare([BUCKET])

    assert readiness.backend == backend, readiness.fallback
    assert readiness.precision == "fp8-weights"
    assert 0.01 < readiness.relative_l2 < FACTORS["fp8-weights"] * readiness.rounding_l2
    assert sum(block.nbytes for block in engine.placement._parts["transformer"].units) < 0.6 * before
    video = render(engine, make_job(pictures=2))
    assert not np.array_equal(video, expected)
    assert np.array_equal(render(engine, make_job(pictures=2)), video)


def test_modulation_embeddings_and_head_stay_as_they_are_in_8_bits() -> None:
    engine = make_engine("model_cpu_offload_and_qfloat8")
    engine.prepare([BUCKET])
    types = {name: tensor.dtype for name, tensor in denoiser_of(engine).state_dict().items() if tensor.numel()}

    small = {name for name, dtype in types.items() if dtype is torch.float8_e4m3fn}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in small} == {"qkv", "out", "ff_in", "ff_out"}
    assert all(dtype is torch.float32 for name, dtype in types.items() if name not in small)


PLACES: dict[Phase, Callable[[Components], nn.Module]] = {
    Phase.TEXT_ENCODE: lambda modules: modules.text_encoder.get_submodule("model.layers.1"),
    Phase.IMAGE_ENCODE: lambda modules: modules.vae.encoder.mid_block,
    Phase.DENOISE: lambda modules: modules.transformer.proj_out,
    Phase.DECODE: lambda modules: modules.vae.decoder.up_blocks[1],
}


@pytest.fixture(scope="module")
def plain() -> NDArray[np.uint8]:
    return render(make_engine("full"), make_job())


def ready(placement: str, modules: Components | None = None) -> Engine:
    """With 8-bit weights where the placement has them, which are made when buckets are."""
    engine = make_engine(placement, modules)
    if placement in IN_8_BITS:
        engine.prepare([BUCKET])
    return engine


@cache
def fresh(placement: str) -> NDArray[np.uint8]:
    """What a fresh engine makes of `make_job()`: the same in all placements, but with 8-bit weights."""
    return render(ready(placement if placement in IN_8_BITS else "full"), make_job())


def spoiled(**changes: Any) -> Job:
    """A job that shares no cached prompt with `make_job()`."""
    return make_job(seed=1, prompt="a dog", negative_prompt="bad", pictures=2, **changes)


@pytest.mark.parametrize("phase", PLACES, ids=lambda phase: phase.value.lower())
@pytest.mark.parametrize("placement", [*EXACT, *IN_8_BITS])
def test_after_leaving_in_any_phase_the_next_video_is_a_fresh_engines(placement: str, phase: Phase) -> None:
    modules = make_modules(make_pipeline(2, 1))
    engine = ready(placement, modules)
    with breaking(PLACES[phase](modules), after=1), pytest.raises(Broken):
        render(engine, spoiled())

    assert np.array_equal(render(engine, make_job()), fresh(placement))


@pytest.mark.parametrize("phase", PLACES, ids=lambda phase: phase.value.lower())
@pytest.mark.parametrize("placement", ["group_offload", "sequential_cpu_offload"])
def test_a_shortage_in_the_leanest_placement_fails_the_job_alone(
    plain: NDArray[np.uint8], placement: str, phase: Phase
) -> None:
    modules = make_modules(make_pipeline(2, 1))
    engine = make_engine(placement, modules)
    shortage = torch.OutOfMemoryError("CUDA out of memory")
    with breaking(PLACES[phase](modules), after=1, error=shortage), pytest.raises(OutOfDeviceMemory):
        render(engine, spoiled())

    assert np.array_equal(render(engine, make_job()), plain)
    assert engine.placement.name == placement


class Once:
    """Lets a module run out of memory at one call, and no more after it."""

    def __init__(self, module: nn.Module, at: int) -> None:
        self.calls, self.at = 0, at
        self.handle = module.register_forward_pre_hook(self)

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("phase", PLACES, ids=lambda phase: phase.value.lower())
@pytest.mark.parametrize("placement", ["full", "model_cpu_offload", *IN_8_BITS])
def test_a_shortage_is_tried_again_in_a_leaner_placement_with_the_same_video(placement: str, phase: Phase) -> None:
    modules = make_modules(make_pipeline(2, 1))
    engine = ready(placement, modules)
    Once(PLACES[phase](modules), at=2)

    assert np.array_equal(render(engine, make_job()), fresh(placement))
    assert engine.readiness(BUCKET).placement == "group_offload"
    assert np.array_equal(render(engine, make_job()), fresh(placement))
    assert engine.readiness(BUCKET).placement == placement, "the next job is back in the configured one"


def test_a_shortage_that_stays_fails_the_job_after_the_second_try() -> None:
    modules = make_modules(make_pipeline(2, 1))
    engine = make_engine("model_cpu_offload", modules)
    shortage = torch.OutOfMemoryError("CUDA out of memory")
    with (
        breaking(modules.transformer.proj_out, error=shortage) as seen,
        pytest.raises(OutOfDeviceMemory, match="too little free memory"),
    ):
        run(engine, make_job())
    assert seen.calls == 2


def test_a_bucket_that_runs_out_of_memory_when_it_is_warmed_is_refused_by_name() -> None:
    modules = make_modules(make_pipeline(2, 1))
    engine = make_engine("full", modules)
    shortage = torch.OutOfMemoryError("CUDA out of memory")
    with (
        breaking(modules.vae.decoder, error=shortage),
        pytest.raises(ConfigurationError, match=f"bucket {BUCKET} ran out of memory"),
    ):
        engine.prepare([BUCKET])


@pytest.mark.parametrize("placement", EXACT[1:])
def test_only_what_is_needed_leaves_the_host_and_all_of_it_comes_back(placement: str) -> None:
    engine = make_engine(placement)
    assert on_the_device(engine) == 0
    sampling = engine.begin(make_job())
    engine.step(sampling)
    here = on_the_device(engine)
    blocks = sum(1 for block in denoiser_of(engine).blocks for _ in block.parameters())
    assert here > blocks if placement == "model_cpu_offload" else 0 < here < blocks
    engine.placement.leave()
    assert on_the_device(engine) == 0


def test_samplings_that_take_turns_across_phases_give_what_each_gives_alone() -> None:
    jobs = make_job(), make_job(pictures=2, seed=1, prompt="a dog")
    alone = [render(make_engine("full"), job) for job in jobs]
    engine = make_engine("model_cpu_offload")
    first = run(engine, jobs[0])
    decode = engine.decode(first)
    frames = [next(decode)]
    second = engine.begin(jobs[1])
    frames.append(next(decode))
    while not second.done:
        engine.step(second)
    frames += list(decode)

    assert np.array_equal(np.concatenate(frames), alone[0])
    assert np.array_equal(np.concatenate(list(engine.decode(second))), alone[1])


def test_placements_can_be_changed_in_a_running_engine(plain: NDArray[np.uint8]) -> None:
    engine = make_engine("full")
    for placement in (*EXACT[1:], "full", "group_offload"):
        engine.placement.use(WeightPlacement(placement))
        assert np.array_equal(render(engine, make_job()), plain)


def test_loading_onto_the_host_gives_the_video_of_loading_onto_the_device() -> None:
    from easyanim_server.config.settings import Settings

    plain = render(Engine.from_settings(Settings(model="builtin:tiny", device="cpu")), make_job())
    for placement in EXACT[1:]:
        engine = Engine.from_settings(
            Settings(model="builtin:tiny", device="cpu", placement=PlacementSetting(placement))
        )
        assert engine.model.placement == placement
        assert np.array_equal(render(engine, make_job()), plain)
