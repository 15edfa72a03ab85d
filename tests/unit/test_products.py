from __future__ import annotations

import pytest
import torch
from torch import nn

from easyanim_server.domain.job import Bucket
from easyanim_server.engine.compile import planner as plans
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.families.easyanimate_v51.block import Block
from easyanim_server.engine.families.easyanimate_v51.transformer import PRODUCTS
from easyanim_server.engine.kernels import conv_linear as products
from easyanim_server.engine.kernels.conv_linear import ConvolvedLinear
from tests.models import engine_of, make_job, make_modules, run

BUCKET = Bucket.parse("32x48x9")


@pytest.mark.parametrize("shape", [(1, 17, 24), (2, 5, 24), (2, 1, 3, 24), (24,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_single_pixels_is_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    x = torch.randn(shape)

    y = ConvolvedLinear(linear)(x)

    torch.testing.assert_close(y, linear(x), rtol=1e-5, atol=1e-5)
    assert y.is_contiguous()


def test_rows_that_lie_apart_are_taken_as_they_are() -> None:
    linear = nn.Linear(24, 40).requires_grad_(False)
    x = torch.randn(2, 9, 24)[:, 2:]

    torch.testing.assert_close(ConvolvedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_weights_are_shared() -> None:
    linear = nn.Linear(24, 40)

    assert ConvolvedLinear(linear).weight is linear.weight


@pytest.mark.parametrize("faster", [True, False])
def test_prepared_buckets_multiply_in_the_faster_way(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    monkeypatch.setattr(plans, "convolving_is_faster", lambda dtype: faster)
    job = make_job(bucket=str(BUCKET), steps=3, guidance=6.0)
    expected = run(engine_of(make_modules()), job).latents
    engine = engine_of(make_modules())
    engine.prepare([BUCKET])

    latents = run(engine, job).latents

    blocks = [block for block in engine.pipeline.denoiser.blocks if isinstance(block, Block)]
    assert blocks
    kinds = {type(getattr(block.video, name)) for block in blocks for name in PRODUCTS}
    assert kinds == {ConvolvedLinear if faster else nn.Linear}
    assert relative_l2(latents, expected) < 1e-5


def test_the_faster_way_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    products.convolving_is_faster.cache_clear()
    seconds = iter([1.0, 1.0] + [1.0, 0.7] * products.MEASUREMENTS)
    monkeypatch.setattr(products, "_seconds", lambda way, x: next(seconds))

    assert products.convolving_is_faster(torch.float32)
    assert products.convolving_is_faster(torch.float32)

    products.convolving_is_faster.cache_clear()
    seconds = iter([1.0, 1.0] + [1.0, 0.9] * products.MEASUREMENTS)
    assert not products.convolving_is_faster(torch.float32), "a little faster is not enough"
    products.convolving_is_faster.cache_clear()
