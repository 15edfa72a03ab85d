"""Kernels against formulas in float64, and the contracts of their operators."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from easyanim_server.engine.kernels import fused as kernels
from easyanim_server.engine.kernels import fused_cpu as kernels_cpu
from easyanim_server.engine.kernels.definitions import E4M3, E4M3_MAX
from easyanim_server.engine.kernels.fused import Quantised
from tests.kernel_inputs import (
    CALLS,
    CHANNELS,
    EPS,
    HEADS,
    TEXTS,
    TOKENS,
    Inputs,
    compare,
    plain,
)

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
