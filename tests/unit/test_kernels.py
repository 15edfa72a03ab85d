"""Kernels against formulas in float64, the operators' contracts, and Triton against both."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from easyanim_server.engine.kernels import fused as kernels
from easyanim_server.engine.kernels import fused_cpu as kernels_cpu
from easyanim_server.engine.kernels.fused import E4M3, E4M3_MAX, Quantised

BATCH, TOKENS, TEXTS, HEADS, CHANNELS = 2, 11, 3, 3, 32
DIM = HEADS * CHANNELS
EPS = 1e-5

has_triton = pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")


class Inputs:
    """Random arguments, by default at a size that a CPU computes at once."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        *,
        batch: int = BATCH,
        tokens: int = TOKENS,
        texts: int = TEXTS,
        heads: int = HEADS,
        channels: int = CHANNELS,
    ) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        dim = heads * channels
        self.texts, self.heads = texts, heads
        self.x = draw(batch, tokens, dim) * 2 + 0.5
        self.branch = [draw(batch, texts, dim), draw(batch, tokens - texts, dim)]
        self.modulation, self.gates = draw(batch, 2, 3, dim), draw(batch, 2, 3, dim)
        self.norm = nn.LayerNorm(dim, EPS, device=device, dtype=dtype).requires_grad_(False)
        self.norm.weight.copy_(draw(dim))
        self.norm.bias.copy_(draw(dim))
        self.qkv = [draw(batch, texts, 3 * dim), draw(batch, tokens - texts, 3 * dim)]
        self.qk_norms = [draw(2, 2, channels), draw(2, 2, channels)]
        angles = torch.rand(tokens, channels // 2, generator=generator, device=device).repeat_interleave(2, -1) * 6
        self.rope = (angles.cos(), angles.sin())

    def calls(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Every operator with its arguments, by name."""
        weight, bias = self.norm.weight, self.norm.bias
        calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "add_gate": (kernels._add_gate, (self.x, self.branch, self.gates, self.texts)),
            "gelu_quantise": (kernels._gelu_quantise, (self.x,)),
            "quantise_rows": (kernels._quantise_rows, (self.x[:, 1:],)),
            "qk_norm_rotate of one product": (
                kernels._qk_norm_rotate,
                ([torch.cat(self.qkv, 1)], self.qk_norms[:1], 1e-6, *self.rope, self.heads, 1.0),
            ),
            "qk_norm_rotate of two": (
                kernels._qk_norm_rotate,
                (self.qkv, self.qk_norms, 1e-6, *self.rope, self.heads, 0.25),
            ),
        }
        for suffix, quantise in (("", False), (" quantised", True)):
            end = (weight, bias, EPS, self.modulation, self.texts, quantise)
            calls["norm_modulate" + suffix] = (kernels._norm_modulate, (self.x, *end))
            for joined, branch in (("", self.branch), (" joined", [torch.cat(self.branch, 1)])):
                calls["add_gate_norm_modulate" + joined + suffix] = (
                    kernels._add_gate_norm_modulate,
                    (self.x, branch, self.gates, *end),
                )
        return calls


CALLS = sorted(Inputs().calls())
CPU_CALLS = [name for name in CALLS if "quantise" not in name]


def modulated(x: Tensor, given: Inputs) -> Tensor:
    """The formula of `norm_modulate`, row by row in float64."""
    x, weight, bias, table = (t.double() for t in (x, given.norm.weight, given.norm.bias, given.modulation))
    rows = torch.empty_like(x)
    for sample in range(x.shape[0]):
        for token in range(x.shape[1]):
            shift, scale, _ = table[sample, 1 if token < given.texts else 0]
            row = x[sample, token]
            normal = (row - row.mean()) / math.sqrt(row.var(correction=0) + EPS)
            rows[sample, token] = (normal * weight + bias) * (1 + scale) + shift
    return rows


def gated(given: Inputs) -> Tensor:
    """The formula of `add_gate`, in float64."""
    gate = given.gates[:, :, 2].double()
    text, video = (part.double() for part in given.branch)
    return given.x.double() + torch.cat((gate[:, 1, None] * text, gate[:, 0, None] * video), dim=1)


def plain(x: Tensor | Quantised) -> Tensor:
    """What quantised rows stand for; others as they are. float64."""
    return x.values.double() * x.scale.double() if isinstance(x, Quantised) else x.double()


def assert_rows(got: Tensor | Quantised, expected: Tensor) -> None:
    """Within float32's rounding, or half a step of e4m3: a sixteenth, and near zero the row's least step."""
    if isinstance(got, Quantised):
        step = got.scale.double() * 2**-10
        assert ((plain(got) - expected).abs() <= expected.abs() / 16 * 1.001 + step).all()
    else:
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantise", [False, True])
def test_norm_modulate_is_its_formula(quantise: bool) -> None:
    given = Inputs()

    y = kernels.norm_modulate(given.x, given.norm, given.modulation, given.texts, quantise)

    assert isinstance(y, Quantised) is quantise
    assert_rows(y, modulated(given.x, given))


@pytest.mark.parametrize("joined", [False, True])
def test_add_gate_is_its_formula(joined: bool) -> None:
    given = Inputs()
    branch = [torch.cat(given.branch, dim=1)] if joined else given.branch

    assert_rows(kernels.add_gate(given.x, branch, given.gates, given.texts), gated(given))


@pytest.mark.parametrize("quantise", [False, True])
def test_add_gate_norm_modulate_is_one_after_the_other(quantise: bool) -> None:
    given = Inputs()

    total, y = kernels.add_gate_norm_modulate(
        given.x, given.branch, given.gates, given.norm, given.modulation, given.texts, quantise
    )

    assert_rows(total, gated(given))
    assert_rows(y, modulated(gated(given), given))


@pytest.mark.parametrize("texts", [0, TOKENS])
def test_tokens_may_be_of_one_kind(texts: int) -> None:
    given = Inputs()
    given.texts = texts

    assert_rows(kernels.norm_modulate(given.x, given.norm, given.modulation, texts, False), modulated(given.x, given))


def test_queries_and_keys_are_normalised_by_heads_and_turned_as_complex_numbers() -> None:
    given = Inputs()

    q, k, v = kernels.qk_norm_rotate(given.qkv, given.qk_norms, 1e-6, given.rope, given.heads, scale=0.25)

    turn = torch.complex(*(table.double()[:, ::2] for table in given.rope)).unsqueeze(1)  # (tokens, 1, channels / 2)
    parts = [product.double().unflatten(-1, (3, HEADS, CHANNELS)) for product in given.qkv]
    for index, got in ((0, q * 4), (1, k)):
        heads = []
        for part, norm in zip(parts, given.qk_norms, strict=True):
            x = part[:, :, index]
            normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
            heads.append(normal * norm[index, 0].double() + norm[index, 1].double())
        numbers = torch.view_as_complex(torch.cat(heads, dim=1).unflatten(-1, (-1, 2)).contiguous())
        assert_rows(got, torch.view_as_real(numbers * turn).flatten(-2))
    assert torch.equal(v.double(), torch.cat([part[:, :, 2] for part in parts], dim=1))


def test_one_product_gives_what_two_of_the_same_norms_give() -> None:
    given = Inputs()
    whole = torch.cat(given.qkv, dim=1)

    one = kernels.qk_norm_rotate([whole], given.qk_norms[:1], 1e-6, given.rope, given.heads)
    two = kernels.qk_norm_rotate(given.qkv, given.qk_norms[:1] * 2, 1e-6, given.rope, given.heads)

    for got, expected in zip(one, two, strict=True):
        assert torch.equal(got, expected)
        assert got.is_contiguous()


def test_linear_gelu_is_its_formula() -> None:
    x, weight, bias = torch.randn(2, 5, 16), torch.randn(24, 16), torch.randn(24)
    product = x.double() @ weight.double().t() + bias.double()
    bent = 0.5 * product * (1 + torch.tanh(math.sqrt(2 / math.pi) * (product + 0.044715 * product**3)))

    assert_rows(kernels.linear_gelu(x, weight, bias), bent)


def test_gelu_quantise_is_its_formula() -> None:
    x = Inputs().x
    wide = x.double()

    bent = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))

    assert_rows(kernels.gelu_quantise(x), bent)


def random_rows() -> Iterator[Tensor]:
    """Rows of many shapes and magnitudes, with outliers and zeros among them."""
    choose = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        shape = (choose.randint(1, 3), choose.randint(1, 9), choose.choice([1, 2, 7, 64, 200]))
        x = torch.randn(shape, generator=generator) * 10 ** choose.uniform(-6, 6)
        if choose.random() < 0.5:
            x[0, 0, choose.randrange(shape[-1])] *= 1e4
        if choose.random() < 0.5:
            x[-1, -1] = 0
        yield x.to(choose.choice([torch.float32, torch.bfloat16]))


def test_quantised_rows_stand_for_what_was_given() -> None:
    for x in random_rows():
        values, scale = quantised = kernels.quantise_rows(x)

        assert values.dtype == E4M3
        assert values.shape == x.shape
        assert scale.shape == (*x.shape[:-1], 1)
        assert_rows(quantised, x.double())


def test_every_row_uses_all_of_the_range() -> None:
    for x in random_rows():
        values, _ = kernels.quantise_rows(x)

        greatest = values.float().abs().amax(-1)
        assert torch.equal(greatest, torch.where((x == 0).all(-1), 0.0, E4M3_MAX))


def test_an_outlier_costs_only_its_own_row_precision() -> None:
    x = torch.randn(4, 64)
    spoilt = x.clone()
    spoilt[0, 0] = 1e6

    before, after = kernels.quantise_rows(x), kernels.quantise_rows(spoilt)

    assert torch.equal(before.values[1:].float(), after.values[1:].float())
    assert torch.equal(before.scale[1:], after.scale[1:])


@pytest.mark.parametrize("name", CALLS)
def test_operators_keep_the_contract_that_compilers_rely_on(name: str) -> None:
    operator, arguments = Inputs().calls()[name]

    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", CALLS)
def test_outputs_are_contiguous(name: str) -> None:
    operator, arguments = Inputs().calls()[name]

    outputs = operator(*arguments)

    assert all(output.is_contiguous() for output in ([outputs] if isinstance(outputs, Tensor) else outputs))


@pytest.mark.parametrize(("tokens", "texts"), [(TOKENS, TEXTS), (90, 40), (5, 5), (5, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CPU_CALLS)
def test_functions_for_cpus_give_the_bits_of_the_definitions(
    name: str, dtype: torch.dtype, tokens: int, texts: int
) -> None:
    operator, arguments = Inputs(dtype, tokens=tokens, texts=texts).calls()[name]
    function = getattr(kernels_cpu, name.split()[0])

    compare(name, function(*arguments), operator._init_fn(*arguments), tolerance=0)


@has_triton
def test_triton_equals_torch_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", "from tests.unit.test_kernels import interpret; interpret()"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def interpret() -> None:
    """Compare every Triton function with its definition; to be called where Triton interprets.

    Quantised values stay unrounded float32 here: the interpreter loses carries when it rounds to e4m3.
    """
    from easyanim_server.engine.kernels import fused_triton as kernels_triton

    kernels_triton.E4M3 = torch.float32
    kernels.scaled = unscaled()
    for tokens, texts in ((TOKENS, TEXTS), (5, 5), (5, 0), (2, 1)):
        for name, (operator, arguments) in Inputs(tokens=tokens, texts=texts).calls().items():
            if "qk_norm" in name and texts in (0, tokens):
                continue  # no product is of no tokens
            compare(name, triton(name)(*arguments), operator._init_fn(*arguments), tolerance=1e-4)


def unscaled() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`scaled` without the rounding."""
    scaled = kernels.scaled

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        _, scale = scaled(x)
        return x / scale, scale

    return run


def triton(name: str) -> Callable[..., Any]:
    from easyanim_server.engine.kernels import fused_triton as kernels_triton

    function: Callable[..., Any] = getattr(kernels_triton, name.split()[0])
    return function


def compare(name: str, got: Any, expected: Any, tolerance: float) -> None:
    if isinstance(got, Tensor):
        got, expected = [got], [expected]
    assert len(got) == len(expected), name
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")


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
