"""Blocks as TensorRT engines, by Torch-TensorRT or its flavour for RTX; attention stays with the kernel of choice.

An engine is half a block, before or after attention, with the weights among its inputs: blocks of one kind share it,
and no engine holds a second copy of the model. It is built for one shape and kept on disk.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from easyanim_server.engine.attention.select import attend, query_scale
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.families.runtime import Block, Rope
from easyanim_server.engine.kernels import fused as kernels

log = logging.getLogger(__name__)

Half = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """A block's inputs, by whose shapes engines are built."""

    x: Tensor
    """(batch, text + video tokens, dim)."""
    emb: Tensor
    """(batch, time_embed_dim)."""
    rope: Rope
    texts: int


class BeforeAttention(nn.Module):
    """The first half of a block."""

    def __init__(self, block: Block, texts: int, scale: float) -> None:
        super().__init__()
        self.block, self.texts, self.scale = block, texts, scale

    def forward(self, x: Tensor, emb: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """See `Block.before_attention`."""
        return self.block.before_attention(x, emb, (cos, sin), self.texts, self.scale)


class AfterAttention(nn.Module):
    """The second half of a block."""

    def __init__(self, block: Block, texts: int) -> None:
        super().__init__()
        self.block, self.texts = block, texts

    def forward(self, x: Tensor, attended: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """See `Block.after_attention`."""
        return self.block.after_attention(x, attended, first, second, self.texts)


class WithWeights(nn.Module):
    """A half whose weights are inputs, after the others."""

    def __init__(self, half: nn.Module) -> None:
        super().__init__()
        self._half = [half]  # in a list, so that its weights are not this module's
        self._names = list(weights_of(half))

    def forward(self, *inputs: Tensor) -> Any:
        """Call the half with the last of these as its weights."""
        own = len(inputs) - len(self._names)
        given = dict(zip(self._names, inputs[own:], strict=True))
        return torch.func.functional_call(self._half[0], given, inputs[:own])


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {name: value.data for name, value in (*module.named_parameters(), *module.named_buffers())}


def build(blocks: Sequence[Block], example: Example, kernel: str) -> list[Callable[..., Tensor]]:
    """Build the engines of all kinds of block, or load them; returns what runs in the blocks' place.

    Args:
        blocks: Of one transformer, in bfloat16 or float32, on a CUDA device.
        example: Of the shape that they are to be called with.
        kernel: The attention kernel.

    Raises:
        ModuleNotFoundError: neither torch-tensorrt nor torch-tensorrt-rtx is installed.
        ValueError: the blocks hold weights in fp8 or float16.
        Exception: whatever TensorRT raises.
    """
    if any(block.takes_fp8 for block in blocks):
        raise ValueError("engines multiply in bf16; fp8 weights run with inductor or eager")
    if any(weight.dtype is torch.float16 for block in blocks for weight in block.parameters()):
        raise ValueError("engines multiply in bf16 or float32; float16 weights run with inductor or eager")
    import torch_tensorrt  # noqa: F401  first of all: without it nothing below is worth a second

    halves: dict[tuple[bool, ...], tuple[Half, Half]] = {}
    calls = []
    for block in blocks:
        if block.kind not in halves:
            halves[block.kind] = _halves(block, example, kernel)
        calls.append(_call(block, *halves[block.kind]))
    return calls


def export(half: nn.Module, inputs: list[Tensor]) -> ExportedProgram:
    """A half as a graph of torch's own operators, with its weights as inputs."""
    with torch.no_grad():
        program = torch.export.export(WithWeights(half), (*inputs, *weights_of(half).values()), strict=False)
        plain: ExportedProgram = program.run_decompositions(kernels.DEFINITIONS)
    return plain


def _halves(block: Block, example: Example, kernel: str) -> tuple[Half, Half]:
    x, texts = example.x, example.texts
    inputs = [x, example.emb, *example.rope]
    before = BeforeAttention(block, texts, query_scale(kernel, example.rope[0].shape[-1]))
    first_engine = engine_for(before, inputs)
    with torch.no_grad():
        q, _, _, first, second = before(*inputs)
    if block.drops_text:
        x, q, texts = x[:, texts:].contiguous(), q[:, texts:].contiguous(), 0
    return first_engine, engine_for(AfterAttention(block, texts), [x, q, first, second])


def _call(block: Block, before: Half, after: Half) -> Callable[..., Tensor]:
    """The block as one function, of the signature of `Block.forward`."""
    tensors = [*block.parameters(), *block.buffers()]
    drops_text = block.drops_text

    def run(x: Tensor, emb: Tensor, rope: Rope, texts: int, kernel: str) -> Tensor:
        weights = [tensor.data for tensor in tensors]  # read at every call: a placement may have moved them
        q, k, v, first, second = before(x, emb, *rope, *weights)
        if drops_text:
            x, q = x[:, texts:].contiguous(), q[:, texts:]
        added: Tensor = after(x, attend(q, k, v, kernel), first, second, *weights)
        return added

    return run


def engine_for(half: nn.Module, inputs: list[Tensor]) -> Half:
    """The half's engine for these shapes, from the cache or built now."""
    import torch_tensorrt

    given = (*inputs, *weights_of(half).values())
    program = export(half, inputs)
    file = _file(program, torch_tensorrt.__version__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations that its own defaults trip over
        kept = read(file) if file is not None else None
        cache.note(hit=kept is not None)
        if kept is not None:
            return kept
        # Neither precisions nor typing are set: every version that this project allows then keeps the graph's types,
        # and the options that say so are gone from the newer ones.
        built: Half = torch_tensorrt.dynamo.compile(
            program,
            arg_inputs=given,
            device=inputs[0].device,
            min_block_size=1,
            require_full_compilation=True,
            truncate_double=True,
        )
        if file is not None:
            keep(built, given, file)
    return built


def keep(built: Any, given: tuple[Tensor, ...], file: Path) -> None:
    """Write an engine.

    Args:
        built: The module that was compiled.
        given: Inputs of its shapes. They are not kept: a block's weights are among them.
        file: Where to.
    """

    def write(draft: Path) -> None:
        with torch.no_grad():
            program = torch.export.export(built, given, strict=False)
        program.example_inputs = None
        torch.export.save(program, draft)

    cache.put(file, write)


def read(file: Path) -> Half | None:
    """The engine that `keep` wrote; None where there is none that can be read."""
    if not file.exists():
        return None
    try:
        loaded: Half = torch.export.load(file).module()
    except Exception as error:  # a file that was cut off fails in as many ways as there are parts of it
        log.warning("%s cannot be read and is made again: %s", file, error)
        return None
    return loaded


def _file(program: ExportedProgram, version: str) -> Path | None:
    """Where the engine of a program is kept: by its code, its inputs' shapes and types, and the builder's version."""
    folder = cache.part(cache.TENSORRT)
    if folder is None:
        return None
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    facts = [version, program.graph_module.code, *(f"{tuple(value.shape)} {value.dtype}" for value in inputs)]
    return folder / f"{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:32]}.ep"
