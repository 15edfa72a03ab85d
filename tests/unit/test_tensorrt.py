"""What is handed to TensorRT; the engines themselves are built by the GPU tests."""

from __future__ import annotations

import pytest
import torch

from easyanim_server.engine import tensorrt
from easyanim_server.engine.attention import attend
from easyanim_server.engine.block import Block
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.tensorrt import AfterAttention, BeforeAttention
from easyanim_server.job import Bucket
from tests.models import make_modules, make_pipeline

TEXTS, TOKENS = 5, 17

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch.export's own


def example() -> tensorrt.Example:
    generator = torch.Generator().manual_seed(0)
    angles = torch.randn(TOKENS, 16, generator=generator).repeat_interleave(2, dim=1)
    return tensorrt.Example(
        x=torch.randn(1, TOKENS, 128, generator=generator),
        emb=torch.randn(1, 64, generator=generator),
        rope=(angles.cos(), angles.sin()),
        texts=TEXTS,
    )


@torch.no_grad()
@pytest.mark.parametrize("number", [0, -1], ids=["with weights for text", "with shared weights"])
@pytest.mark.parametrize("drops_text", [False, True])
def test_the_exported_halves_are_the_block_with_whatever_weights_are_given(number: int, drops_text: bool) -> None:
    stock = make_pipeline().transformer.transformer_blocks
    block, given = Block(stock[number], "original", drops_text), example()
    inputs = [given.x, given.emb, *given.rope]
    before = tensorrt.export(BeforeAttention(block, TEXTS, 1.0), inputs)
    q, k, v, first, second = block.before_attention(given.x, given.emb, given.rope, TEXTS, 1.0)
    left = TEXTS if drops_text else 0
    x, q = given.x[:, left:].contiguous(), q[:, left:].contiguous()
    after = tensorrt.export(AfterAttention(block, TEXTS - left), [x, q, first, second])

    for parameter in block.parameters():
        parameter.data *= 1.25
    weights = list(tensorrt.weights_of(block).values())
    q, k, v, *modulation = before.module()(*inputs, *weights)
    result = after.module()(x, attend(q[:, left:], k, v), *modulation, *weights)

    expected = block(given.x, given.emb, given.rope, TEXTS, "torch")
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nothing_is_exported_that_tensorrt_has_never_heard_of() -> None:
    block, given = Block(make_pipeline().transformer.transformer_blocks[0], "original"), example()
    program = tensorrt.export(BeforeAttention(block, TEXTS, 1.0), [given.x, given.emb, *given.rope])

    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {name for name in names if not name.startswith("aten.") and "getitem" not in name}


def test_where_tensorrt_cannot_run_the_next_backend_serves_and_says_why() -> None:
    torch._dynamo.reset()
    engine = Engine(make_modules(make_pipeline(2, 1)), backend="tensorrt")

    (readiness,) = engine.prepare([Bucket.parse("32x48x5")])

    assert readiness.backend == "inductor"
    assert readiness.fallback.startswith("tensorrt: ")
