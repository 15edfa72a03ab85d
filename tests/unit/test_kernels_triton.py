"""Kernels in Triton against their definitions: in the interpreter, and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from easyanim_server.engine.kernels import definitions
from easyanim_server.engine.kernels import fused as kernels
from easyanim_server.engine.kernels.fused import Quantised
from tests.kernel_inputs import (
    CALLS,
    TEXTS,
    TOKENS,
    Inputs,
    compare,
    has_triton,
    plain,
)
from tests.triton_interpreter import call_interpreted


@has_triton
def test_triton_equals_torch_in_the_interpreter() -> None:
    call_interpreted("tests.unit.test_kernels_triton")


def interpret() -> None:
    """Compare every Triton function with its definition; to be called where Triton interprets.

    Quantised values stay unrounded float32 here: the interpreter loses carries when it rounds to e4m3.
    """
    from easyanim_server.engine.kernels import fused_triton as kernels_triton

    vars(kernels_triton)["E4M3"] = torch.float32
    vars(definitions)["scaled"] = vars(kernels)["scaled"] = unscaled()
    for tokens, texts in ((TOKENS, TEXTS), (5, 5), (5, 0), (2, 1)):
        for name, (operator, arguments) in Inputs(tokens=tokens, texts=texts).calls().items():
            if "qk_norm" in name and texts in (0, tokens):
                continue  # no product is of no tokens
            compare(name, triton(name)(*arguments), operator._init_fn(*arguments), tolerance=1e-4)


def unscaled() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`scaled` without the rounding."""
    scaled = definitions.scaled

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        _, scale = scaled(x)
        return x / scale, scale

    return run


def triton(name: str) -> Callable[..., Any]:
    from easyanim_server.engine.kernels import fused_triton as kernels_triton

    function: Callable[..., Any] = getattr(kernels_triton, name.split()[0])
    return function


@pytest.mark.gpu
@has_triton
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_triton_equals_torch_at_the_published_shape(name: str, batch: int) -> None:
    given = Inputs(torch.bfloat16, "cuda", batch=batch, tokens=13360, texts=256, heads=48, channels=64)
    operator, arguments = given.calls()[name]

    got, expected = operator(*arguments), operator._init_fn(*arguments)

    got, expected = ([x] if isinstance(x, Tensor) else list(x) for x in (got, expected))
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < 2e-3  # here and there one rounds up where the other rounds down


@pytest.mark.gpu
@has_triton
def test_gelu_quantise_equals_torch_at_the_published_width() -> None:
    x = torch.randn(13360, 12288, device="cuda", dtype=torch.bfloat16) * 2

    got, expected = kernels.gelu_quantise(x), Quantised(*kernels._gelu_quantise._init_fn(x))

    torch.testing.assert_close(got.scale, expected.scale, rtol=1e-5, atol=0)
    assert (plain(got) - plain(expected)).norm() / plain(expected).norm() < 2e-3


@pytest.mark.gpu
def test_linear_gelu_on_cuda_is_the_tanh_form() -> None:
    x, weight, bias = (torch.randn(*shape, device="cuda").bfloat16() for shape in ((2, 300, 64), (128, 64), (128,)))

    got = kernels.linear_gelu(x, weight, bias)

    exact = nn.functional.gelu(nn.functional.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
    torch.testing.assert_close(got.float(), exact, rtol=1e-2, atol=1e-2)
