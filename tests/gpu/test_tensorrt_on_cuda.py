"""TensorRT engines: built, checked, found again, and served."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from easyanim_server.domain.job import Bucket, Job
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.compile.backends import Backends
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.compile.tensorrt import AfterAttention, BeforeAttention, _engine, weights_of
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.block import Block
from easyanim_server.engine.families.easyanimate_v51.transformer import Denoiser
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.weights import checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_spec("torch_tensorrt"), reason="needs torch-tensorrt or torch-tensorrt-rtx"),
    pytest.mark.filterwarnings("ignore"),  # Torch-TensorRT deprecates its own defaults
]

CUDA = torch.device("cuda")
BUCKET = Bucket.parse("192x320x13")
JOB = Job("1", "a cat", "ugly", BUCKET, steps=4, guidance=6.0, seed=1)


def run(engine: Engine) -> Sampling:
    sampling = engine.begin(JOB)
    while not sampling.done:
        engine.step(sampling)
    return sampling


def test_engines_serve_a_bucket_and_are_found_at_the_next_start(tmp_path: Path) -> None:
    cache.use(tmp_path, CUDA)
    videos = []
    for _ in range(2):
        before = cache.lookups()
        engine = Engine(checkpoint.load("builtin:tiny", device=CUDA, dtype=torch.bfloat16), backend="tensorrt")
        (readiness,) = engine.prepare([BUCKET])
        after = cache.lookups()
        assert readiness.backend == "tensorrt", readiness.fallback
        videos.append((run(engine).latents, after.hits - before.hits, after.misses - before.misses))

    (first, found, built), (again, found_again, built_again) = videos
    assert built > found, "found are only those that two kinds of block share"
    assert (found_again, built_again) == (found + built, 0)
    assert torch.equal(first, again)
    eager = Engine(checkpoint.load("builtin:tiny", device=CUDA, dtype=torch.bfloat16))
    assert relative_l2(first, run(eager).latents) < 20 * readiness.rounding_l2


@torch.no_grad()
@pytest.mark.parametrize("number", [0, -1], ids=["with weights for text", "with shared weights"])
def test_each_half_of_a_block_computes_what_the_block_does(number: int) -> None:
    modules = checkpoint.load("builtin:tiny", device=CUDA, dtype=torch.bfloat16)
    denoiser = Denoiser(modules.transformer, "original")
    example = Backends(denoiser, modules.geometry)._example(BUCKET)
    block = denoiser.blocks[number]
    assert isinstance(block, Block)
    inputs = [example.x, example.emb, *example.rope]
    before = BeforeAttention(block, example.texts, 1.0)
    expected = before(*inputs)
    weights = list(weights_of(block).values())

    results = _engine(before, inputs)(*inputs, *weights)
    for name, got, value in zip(["q", "k", "v", "first", "second"], results, expected, strict=True):
        assert relative_l2(got, value) < 0.02, name
    q, _, _, first, second = expected
    after = AfterAttention(block, example.texts)
    given = [example.x, q, first, second]
    assert relative_l2(_engine(after, given)(*given, *weights), after(*given)) < 0.02


def test_the_published_shape_passes_the_gate_on_engines_that_hold_no_weights(tmp_path: Path) -> None:
    cache.use(tmp_path, CUDA)
    modules = builtin.synthetic("7b", device=CUDA, dtype=torch.bfloat16, text_layers=0)

    (readiness,) = Engine(modules, backend="tensorrt", attention="auto").prepare([BUCKET])

    assert readiness.backend == "tensorrt", readiness.fallback
    folder = cache.part(cache.TENSORRT)
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) < 100e6
