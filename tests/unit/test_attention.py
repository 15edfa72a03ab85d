from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from easyanim_server.engine.attention import cpu as attention_cpu
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.attention.select import (
    attend,
    available,
    candidates,
    fastest,
    largest_product,
    measure,
    query_scale,
)
from easyanim_server.engine.kernels.fused import qk_norm_rotate

CPU = torch.device("cpu")


def qkv(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*shape, generator=generator) for _ in range(3))
    return q, k, v


def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    attended: Tensor = ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)
    return attended.float()


@pytest.mark.parametrize("kernel", available(CPU, torch.float32))
@pytest.mark.parametrize("shape", [(1, 17, 3, 8), (2, 5, 1, 16)])
def test_every_kernel_is_attention(kernel: str, shape: tuple[int, ...]) -> None:
    given = qkv(*shape)

    result = attend(*given, kernel)

    torch.testing.assert_close(result, by_definition(*given), rtol=1e-5, atol=1e-5)
    assert result.is_contiguous()


def test_values_may_be_a_strided_part_of_a_packed_product() -> None:
    packed = torch.randn(1, 9, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = packed.unbind(2)

    assert torch.equal(attend(q, k, v), attend(q.contiguous(), k.contiguous(), v.contiguous()))


def test_the_operator_keeps_torchs_rules_for_custom_operators() -> None:
    torch.library.opcheck(attention._opaque, (*qkv(1, 4, 2, 8), "torch"))


def test_a_compiler_cannot_look_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def note(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(str(graph.graph))
        return graph

    torch.compile(lambda q, k, v: attend(q, k, v, "math") + 1, backend=note, fullgraph=True)(*qkv(1, 4, 2, 8))

    assert "easyanim.attend" in graphs[0]
    assert F.scaled_dot_product_attention.__name__ not in graphs[0]


def random_norms(kinds: int, channels: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, channels, generator=generator) for _ in range(kinds)]


@pytest.mark.parametrize("seed", range(5))
def test_no_query_times_a_key_exceeds_the_bound(seed: int) -> None:
    heads, channels, tokens = 3, 16, 400
    norms = random_norms(2, channels, seed)
    generator = torch.Generator().manual_seed(seed)
    qkv = [torch.randn(1, tokens, 3 * heads * channels, generator=generator) for _ in norms]
    angles = torch.rand(2 * tokens, channels // 2, generator=generator).repeat_interleave(2, -1) * 6
    scale = query_scale(attention.BOUNDED, channels)

    q, k, _ = qk_norm_rotate(qkv, norms, 1e-6, (angles.cos(), angles.sin()), heads, scale)

    products = torch.einsum("bqhc,bkhc->bhqk", q, k)
    assert products.max() <= largest_product(norms)


def test_the_bound_is_reached_where_a_query_meets_itself() -> None:
    plain = torch.stack((torch.ones(2, 64), torch.zeros(2, 64)), dim=1)  # weights of 1, no bias

    assert largest_product([plain]) == pytest.approx(64 * query_scale(attention.BOUNDED, 64))
    assert largest_product([plain * 2]) == pytest.approx(4 * largest_product([plain]))


def test_other_kernels_take_queries_as_they_are() -> None:
    assert {query_scale(kernel, 64) for kernel in attention._KERNELS if kernel != attention.BOUNDED} == {1.0}


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"torch": 10.0, "convolution": 9.0}, "torch"),
        ({"torch": 10.0, "convolution": 7.0}, "convolution"),
        ({"torch": 10.0, "convolution": math.inf}, "torch"),
        ({"torch": math.inf, "convolution": math.inf}, "torch"),
    ],
    ids=str,
)
def test_on_the_cpu_the_choice_is_torchs_unless_another_kernel_is_clearly_faster(
    times: dict[str, float], chosen: str
) -> None:
    assert fastest(times) == chosen


def test_on_the_cpu_kernels_are_measured() -> None:
    times = measure(torch.Size((1, 16, 2, 8)), CPU, torch.float32, candidates(CPU, torch.float32))

    assert fastest(times) in times
    assert times.keys() == {"torch", "convolution"}
    assert all(0 < value < math.inf for value in times.values())


def test_a_kernel_that_fails_is_no_choice_and_one_that_lacks_memory_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(error: Exception) -> attention.Kernel:
        def kernel(*_: Tensor) -> Tensor:
            raise error

        return kernel

    monkeypatch.setitem(attention._KERNELS, "torch", lambda: failing(RuntimeError("not on this card")))
    monkeypatch.setitem(attention._KERNELS, "convolution", lambda: failing(torch.OutOfMemoryError("no memory left")))
    shape = torch.Size((1, 16, 2, 8))

    assert measure(shape, CPU, torch.float32, ["torch", "convolution"]) == {"torch": math.inf}
    assert fastest({"torch": math.inf}) == fastest({}) == "torch"


def test_scores_may_be_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 50, 3, 8) for _ in range(3))
    monkeypatch.setattr(attention_cpu, "SCORES", 7 * 3 * 50)

    torch.testing.assert_close(attend(q, k, v, "convolution"), attend(q, k, v), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_all_kernels_are_measured_and_agree() -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    shape = torch.Size((1, 1024, 8, 64))
    times = measure(shape, device, dtype, candidates(device, dtype))
    chosen = fastest(times)

    assert chosen == min(times, key=lambda name: times[name])
    assert {"flash", "cudnn", "efficient"} <= set(times)
    q, k, v = (x.to(device, dtype) for x in qkv(*shape))
    expected = by_definition(q, k, v)
    for name in times:
        error = (attend(q * query_scale(name, 64), k, v, name).float() - expected).norm() / expected.norm()
        assert error < 0.01, name


@pytest.mark.gpu
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (192, 128), (193, 129), (1000, 1256)])
def test_attention_without_a_maximum_is_attention(queries: int, keys: int) -> None:
    if attention.BOUNDED not in available(torch.device("cuda"), torch.bfloat16, largest=0):
        pytest.skip("needs a Hopper card and flash-attn-4")
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, tokens, 5, 64, generator=generator, device="cuda", dtype=torch.bfloat16) * factor
        for tokens, factor in ((queries, 3), (keys, 3), (keys, 1))
    )
    expected = by_definition(q, k, v)

    scaled = (q.float() * query_scale(attention.BOUNDED, 64)).bfloat16()
    result = attend(scaled, k, v.transpose(1, 2).contiguous().transpose(1, 2), attention.BOUNDED)

    assert (result.float() - expected).norm() / expected.norm() < 0.02
    assert result.is_contiguous()


@pytest.mark.gpu
def test_attention_without_a_maximum_is_offered_only_where_products_are_bounded() -> None:
    device = torch.device("cuda")
    assert attention.BOUNDED not in available(device, torch.bfloat16)
    assert attention.BOUNDED not in available(device, torch.bfloat16, largest=attention.LARGEST_PRODUCT + 1)
