"""What is handed to TensorRT; the engines themselves are built by the GPU tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyanim_server.domain.job import Bucket
from easyanim_server.engine.attention.select import attend
from easyanim_server.engine.compile import tensorrt
from easyanim_server.engine.compile.tensorrt import AfterAttention, BeforeAttention
from easyanim_server.engine.families.easyanimate_v51.block import Block
from tests.models import engine_of, make_modules, make_pipeline

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


@pytest.fixture
def half() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], int]:
    """What a compiler makes of a half block, here of torch's own operators; its inputs; bytes of the weights."""
    block, given = Block(make_pipeline().transformer.transformer_blocks[0], "original"), example()
    before, inputs = BeforeAttention(block, TEXTS, 1.0), [given.x, given.emb, *given.rope]
    weights = tensorrt.weights_of(before).values()
    compiled = tensorrt.export(before, inputs).module()
    return compiled, (*inputs, *weights), sum(weight.nbytes for weight in weights)


def test_engines_are_kept_without_the_weights_that_they_were_built_with(half: Any, tmp_path: Path) -> None:
    compiled, given, weight_bytes = half
    file = tmp_path / "engine.ep"
    assert tensorrt.read(file) is None

    tensorrt.keep(compiled, given, file)

    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size < weight_bytes / 2
    found = tensorrt.read(file)
    assert found is not None
    for result, expected in zip(found(*given), compiled(*given), strict=True):
        assert torch.equal(result, expected)


def test_an_engine_that_was_cut_off_is_built_again(half: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiled, given, _ = half
    file = tmp_path / "engine.ep"
    tensorrt.keep(compiled, given, file)
    file.write_bytes(file.read_bytes()[:1000])

    assert tensorrt.read(file) is None
    assert "cannot be read and is made again" in caplog.text


def test_an_engine_that_cannot_be_kept_serves_all_the_same(
    half: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiled, given, _ = half
    (tmp_path / "occupied").write_text("a file where the folder should be")

    tensorrt.keep(compiled, given, tmp_path / "occupied" / "engine.ep")

    assert "cannot be written" in caplog.text


def test_where_tensorrt_cannot_run_the_next_backend_serves_and_says_why() -> None:
    torch._dynamo.reset()
    engine = engine_of(make_modules(make_pipeline(2, 1)), backend="tensorrt")

    (readiness,) = engine.prepare([Bucket.parse("32x48x5")])

    assert readiness.backend == "inductor"
    assert readiness.fallback.startswith("tensorrt: ")
