"""Models in float16: near to float32, also where plain float16 would overflow, and refused where nothing helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.compile import precision, tensorrt
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.devices import fast_dtype, resolve_dtype
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v5 import folder as v5
from easyanim_server.engine.families.easyanimate_v51.components import Modules
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.registry import recognise
from easyanim_server.engine.kernels.float16 import ScaledLinear, unit_rows, widen
from easyanim_server.engine.weights.index import CheckpointIndex
from tests.models import make_job, make_modules, run
from tests.servers import settings as server_settings

CPU = torch.device("cpu")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "upstream" / "models"
BUCKET = Bucket.parse("32x48x9")

TOLERANCE = 0.02
"""Relative L2 of latents after two steps with guidance 6, which enlarges differences. Measured was 0.003 to 0.009;
bfloat16 is 0.03 to 0.34 away from float32."""
FRAMES = 4
"""Mean difference of 8-bit values."""

LARGEST = torch.finfo(torch.float16).max


def v51_modules(dtype: torch.dtype) -> Modules:
    modules = make_modules()
    for network in (modules.transformer, modules.vae, modules.text_encoder):
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
    return modules


def v5_modules(dtype: torch.dtype) -> Modules:
    return v5.read(FIXTURES / "v5-inp", "v5-inp", device=CPU, dtype=dtype, own=True)


MAKERS = {"v5.1": v51_modules, "v5": v5_modules}


def job(model: str) -> Job:
    made = make_job(bucket=str(BUCKET))
    return made if model == "v5.1" else replace(made, acceleration=Acceleration(Solver.DDIM))


def grown(modules: Any, model: str, what: str, factor: float) -> None:
    """Scale weights up so that what lies between them exceeds float16."""
    with torch.no_grad():
        for linear in GROWN[model, what](modules):
            linear.weight.mul_(factor)
            if linear.bias is not None:
                linear.bias.mul_(factor)


GROWN: dict[tuple[str, str], Callable[[Any], list[nn.Linear]]] = {
    ("v5.1", "feed-forward of a block"): lambda modules: [modules.transformer.transformer_blocks[1].ff.net[0].proj],
    ("v5.1", "tokens"): lambda modules: [modules.transformer.transformer_blocks[0].ff.net[2]],
    ("v5.1", "values"): lambda modules: [modules.transformer.transformer_blocks[1].attn1.to_v],
    ("v5.1", "text"): lambda modules: [modules.text_encoder.model.layers[0].mlp.down_proj],
    ("v5", "text"): lambda modules: [modules.text_encoder_2.encoder.block[0].layer[1].DenseReluDense.wi_1],
    ("v5", "tokens"): lambda modules: [modules.transformer.transformer_blocks[0].ff.net[2]],
}
"""Layers of float32 or float16 networks by what becomes large."""


def render(modules: Any, given: Job, **options: Any) -> tuple[Tensor, np.ndarray[Any, Any]]:
    engine = Engine(EasyAnimatePipeline(modules), **options)
    sampling = run(engine, given)
    return sampling.latents, np.concatenate(list(engine.decode(sampling)))


@pytest.mark.parametrize("model", MAKERS)
def test_float16_gives_the_video_of_float32(model: str) -> None:
    wide, frames = render(MAKERS[model](torch.float32), job(model))
    narrow, others = render(MAKERS[model](torch.float16), job(model))

    assert narrow.dtype is torch.float16
    assert relative_l2(narrow, wide) < TOLERANCE
    assert np.abs(frames.astype(int) - others).mean() < FRAMES


@pytest.mark.parametrize(("model", "what"), GROWN)
def test_what_exceeds_float16_stays_finite_and_near(model: str, what: str) -> None:
    pairs = []
    largest = 0.0

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(output.abs().max()))

    for dtype in (torch.float32, torch.float16):
        modules = MAKERS[model](dtype)
        grown(modules, model, what, 30_000.0)
        assert all(layer.weight.isfinite().all() for layer in GROWN[model, what](modules)), "float16 holds the weights"
        pipeline = EasyAnimatePipeline(modules)
        blocks: Any = pipeline.denoiser.blocks
        watched = blocks[1].video.qkv if what == "values" else GROWN[model, what](modules)[0]
        handle = watched.register_forward_hook(note)
        engine = Engine(pipeline)
        engine.prepare([BUCKET])  # the check at start accepts it
        pairs.append(run(engine, job(model)).latents)
        handle.remove()

    assert largest > LARGEST, "plain float16 would have overflowed"
    assert relative_l2(pairs[1], pairs[0]) < TOLERANCE


@pytest.mark.parametrize("model", MAKERS)
def test_weights_beyond_float16_are_refused(model: str) -> None:
    modules: Any = MAKERS[model](torch.float32)
    modules.transformer.transformer_blocks[1].ff.net[2].weight.data[0, 0] = 1e6
    modules.transformer.to(torch.float16)
    for encoder in (modules.text_encoder, getattr(modules, "text_encoder_2", modules.text_encoder)):
        encoder.to(torch.float16)

    with pytest.raises(ConfigurationError, match=r"bucket 32x48x9 cannot be served.* are NaN or infinite"):
        Engine(EasyAnimatePipeline(modules)).prepare([BUCKET])


def test_products_beyond_float16_are_no_numbers_and_said_to_be_none() -> None:
    layer = nn.Linear(64, 4, bias=False, dtype=torch.float16)
    layer.weight.data.fill_(60_000.0)
    widen(layer)

    assert type(layer) is ScaledLinear
    assert not layer(torch.ones(1, 64)).isfinite().any()


@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e20])
def test_rows_of_any_size_are_multiplied(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    x = factor * torch.randn(3, 5, 64, generator=generator)
    expected = layer(x)

    layer.half()
    widen(layer)

    assert relative_l2(layer(x), expected) < 1e-3
    assert torch.equal(layer(torch.zeros(2, 64)), torch.zeros(2, 32))


def test_values_are_divided_by_their_own_samples_greatest() -> None:
    values = torch.tensor([[[[3.0, -4e6]]], [[[0.5, 0.25]]]])

    unit, scale = unit_rows(values, (1, 2, 3))

    assert scale.flatten().tolist() == [4e6, 0.5]
    assert unit[1].flatten().tolist() == [1.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_keep_their_layers(dtype: torch.dtype) -> None:
    modules: Any = v51_modules(dtype)
    before = {type(module) for module in modules.transformer.modules()}

    pipeline = EasyAnimatePipeline(modules)

    assert {type(module) for module in modules.transformer.modules()} == before
    assert not any(isinstance(module, ScaledLinear) for module in pipeline.denoiser.modules())
    assert pipeline.vae.dtype is dtype


def test_a_compiled_bucket_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is left out: what is checked is that paths are compared in float16's own rounding."""
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *given: forward(*given))
    engine = Engine(EasyAnimatePipeline(v51_modules(torch.float16)), backend="inductor")

    (status,) = engine.prepare([BUCKET])

    assert (status.backend, status.precision, status.fallback) == ("inductor", "float16", "")
    assert 1e-5 < status.rounding_l2 < 5e-3


@pytest.mark.parametrize("placement", ["group_offload", "sequential_cpu_offload"])
@pytest.mark.parametrize("model", MAKERS)
def test_placements_give_the_same_video(model: str, placement: str) -> None:
    latents, frames = render(MAKERS[model](torch.float16), job(model))
    others, moved = render(MAKERS[model](torch.float16), job(model), placement=placement)

    assert torch.equal(latents, others)
    assert np.array_equal(frames, moved)


def test_8_bit_weights_beside_float16_are_multiplied_in_float32() -> None:
    engine = Engine(EasyAnimatePipeline(v51_modules(torch.float16)), precision="fp8-weights")

    (status,) = engine.prepare([BUCKET])

    assert status.precision == "fp8-weights"
    assert run(engine, job("v5.1")).latents.isfinite().all()


@pytest.mark.parametrize("model", ["builtin:tiny", str(FIXTURES / "v5-inp")])
def test_an_engine_is_loaded_in_float16(model: str) -> None:
    settings = server_settings(model=model, device="cpu", dtype="float16", backend="eager", buckets="32x48x5")
    engine = Engine.from_settings(settings)

    (status,) = engine.prepare(settings.buckets)

    assert (engine.model.dtype, status.precision) == ("float16", "float16")
    pipeline: Any = engine.pipeline
    assert {weight.dtype for weight in pipeline.modules.vae.parameters()} == {torch.float32}
    assert {weight.dtype for weight in pipeline.modules.transformer.parameters()} == {torch.float16}
    assert {text.dtype for text in pipeline.encode_text("a cat", lambda name: None).values()} == {torch.float32}


def test_a_step_cache_reuses_in_float16() -> None:
    engine = Engine(EasyAnimatePipeline(v51_modules(torch.float16)))
    sampling = run(engine, replace(make_job(steps=6), acceleration=Acceleration(cache_threshold=0.9)))

    assert sampling.reused > 0
    assert sampling.latents.isfinite().all()


def test_tensorrt_is_left_to_other_types() -> None:
    blocks = EasyAnimatePipeline(v51_modules(torch.float16)).denoiser.blocks
    nothing = torch.empty(0)

    with pytest.raises(ValueError, match="float16 weights run with inductor or eager"):
        tensorrt.build(blocks, tensorrt.Example(nothing, nothing, (nothing, nothing), 0), "torch")


def test_settings_and_cards_choose_float16() -> None:
    assert Settings(model="builtin:tiny", dtype="float16").dtype == "float16"
    assert resolve_dtype("float16", CPU) is torch.float16
    assert resolve_dtype("auto", CPU) is torch.float32
    cards = {"V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "L4": (8, 9), "H100": (9, 0)}
    chosen = {name: fast_dtype(capability) for name, capability in cards.items()}
    assert [name for name, dtype in chosen.items() if dtype is torch.float16] == ["V100", "T4"]
    assert {chosen[name] for name in ("A100", "L4", "H100")} == {torch.bfloat16}


def test_8_bit_products_are_refused_beside_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    card = torch.device("cuda")

    with pytest.raises(ConfigurationError, match="dtype is float16; use dtype bfloat16 or auto"):
        precision.resolve_precision("fp8", False, card, torch.float16)
    assert precision.resolve_precision("bf16", True, card, torch.float16) == "fp8-weights"
    assert precision.resolve_precision("bf16", True, card, torch.bfloat16) == "fp8"


@pytest.mark.parametrize("name", ["synthetic:7b", "synthetic:v5-7b"])
def test_what_a_model_weighs_counts_what_is_float32(name: str) -> None:
    index = CheckpointIndex(name, None)
    family = recognise(index)

    narrow, usual = (family.outline(index, dtype) for dtype in (torch.float16, torch.bfloat16))

    assert (narrow.vae, narrow.itemsize) == (2 * usual.vae, 2 * usual.itemsize)
    assert (narrow.text, narrow.rest, narrow.blocks) == (usual.text, usual.rest, usual.blocks)
