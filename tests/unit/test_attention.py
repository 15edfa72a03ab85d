from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from easyanim_server.engine import attention
from easyanim_server.engine.attention import attend, available, choose

CPU = torch.device("cpu")


def qkv(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*shape, generator=generator) for _ in range(3))
    return q, k, v


def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).float()


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

    torch.compile(lambda *given: attend(*given, "math") + 1, backend=note, fullgraph=True)(*qkv(1, 4, 2, 8))

    assert "easyanim.attend" in graphs[0]
    assert F.scaled_dot_product_attention.__name__ not in graphs[0]


def test_on_the_cpu_the_choice_is_torchs() -> None:
    assert choose(torch.Size((1, 16, 2, 8)), CPU, torch.float32) == ("torch", {})


@pytest.mark.gpu
def test_on_a_gpu_all_kernels_are_measured_and_agree() -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    shape = torch.Size((1, 1024, 8, 64))
    chosen, times = choose(shape, device, dtype)

    assert chosen == min(times, key=lambda name: times[name])
    assert {"flash", "cudnn", "efficient"} <= set(times)
    q, k, v = (x.to(device, dtype) for x in qkv(*shape))
    expected = by_definition(q, k, v)
    for name in times:
        error = (attend(q, k, v, name).float() - expected).norm() / expected.norm()
        assert error < 0.01, name
