"""How each bucket's blocks run: chosen by measurement, built, checked and warmed before the first request."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easyanim_server.engine import attention
from easyanim_server.engine.block import Block
from easyanim_server.engine.placement import Placement
from easyanim_server.engine.precision import CastLinear, Fp8Linear, require_fp8
from easyanim_server.engine.transformer import Denoiser, Path
from easyanim_server.errors import ConfigurationError
from easyanim_server.job import Bucket, Readiness

FALLBACK = {"inductor": "eager"}
"""What is tried where a backend fails."""

GATE_FACTORS = {"float32": 4.0, "bf16": 2.0, "fp8": 8.0, "fp8-weights": 8.0}
"""How many times as far from float32 as the eager network a path may be, by precision. See docs/performance.md."""

ROUNDING = 1e-5
"""Least error that is told apart from none: float32's own, through all blocks."""

MAX_SHAPES = 256
"""Compiled variants of a block that dynamo keeps; its default of 8 would silently run the fifth bucket eagerly."""

TEXT_TOKENS = 256
TIMESTEP = 500.0


@dataclass(frozen=True)
class Inputs:
    """One prediction's inputs, the same on every run."""

    latents: Tensor
    timestep: Tensor
    text: Tensor
    inpaint: Tensor


class Planner:
    """Prepares a denoiser for its buckets.

    Args:
        denoiser: Whose blocks run; converted in place where the precision asks for it.
        backend: ``eager``, ``inductor``, or ``auto``: inductor on CUDA, eager on the CPU.
        precision: ``bf16`` leaves the weights in the type they were loaded in; ``fp8`` converts the large ones;
            ``fp8-weights`` stores them in 8 bits and casts them before every product.
        kernel: An attention kernel by name, or ``auto`` to measure.
        placement: Brings the weights; None where they are on the device.

    Raises:
        ConfigurationError: the device lacks what was asked for.
    """

    def __init__(
        self, denoiser: Denoiser, backend: str, precision: str, kernel: str, placement: Placement | None = None
    ) -> None:
        self._denoiser = denoiser
        weight = next(denoiser.transformer.parameters())
        self._placement = placement
        self._device, self._dtype = placement.device if placement else weight.device, weight.dtype
        self._backend = backend if backend != "auto" else ("inductor" if self._device.type == "cuda" else "eager")
        self._precision = precision
        if precision == "fp8":
            require_fp8(self._device)
        offered = attention.available(self._device, self._dtype)
        if kernel not in ("auto", *offered):
            raise ConfigurationError(
                f"attention {kernel!r} cannot run here; must be auto or one of {', '.join(offered)}"
            )
        self._kernel = kernel
        self._compiled: list[Callable[..., Tensor]] | None = None
        self._prepared = False

    @torch.no_grad()
    def prepare(self, buckets: Sequence[Bucket], report: Callable[[str], None]) -> dict[Bucket, tuple[Path, Readiness]]:
        """Build and check a path for every bucket, those with the fewest tokens first. To be called once.

        Args:
            buckets: Shapes to serve.
            report: Told what is being done, in one sentence.

        Raises:
            ConfigurationError: no path of this precision is near enough to the eager network.
            RuntimeError: it was called before; weights may be converted, so nothing is left to compare with.
        """
        if self._prepared:
            raise RuntimeError("buckets are prepared once, all together")
        self._prepared = True
        ordered = sorted(dict.fromkeys(buckets), key=lambda bucket: bucket.height * bucket.width * bucket.frames)
        quantised = self._precision != "bf16"
        faster = self._backend != "eager" or quantised
        references = {}
        unit = ROUNDING
        if faster:
            report("computing what faster paths are compared with")
            with self._placement.streamed() if self._placement else nullcontext():
                references = {bucket: self._predict(bucket, self._denoiser.eager) for bucket in ordered}
                # Of float32 itself, 8 bits are as far as they are of bfloat16, whose rounding is their measure.
                other = torch.bfloat16 if quantised and self._dtype is torch.float32 else torch.float32
                compared = self._predict(ordered[0], Path([in_type(block, other) for block in self._blocks]))
                unit = max(relative_l2(references[ordered[0]], compared), ROUNDING)
        if quantised:
            report("converting weights to fp8")
            layer = Fp8Linear if self._precision == "fp8" else CastLinear
            if self._placement:
                self._placement.rebuild(lambda number: block_to_fp8(self._denoiser, number, layer))
            else:
                to_fp8(self._denoiser, layer)
        plans = {}
        for number, bucket in enumerate(ordered, 1):
            report(f"building {bucket} ({self._backend}, {self._precision}), {number} of {len(ordered)} buckets")
            plans[bucket] = self._plan(bucket, references.get(bucket), unit)
        return plans

    @property
    def _blocks(self) -> list[Block]:
        return [block for block in self._denoiser.blocks if isinstance(block, Block)]

    def _plan(self, bucket: Bucket, reference: Tensor | None, unit: float) -> tuple[Path, Readiness]:
        shape = self._attention_shape(bucket)
        kernel = self._kernel
        times: dict[str, float] = {}
        if kernel == "auto":
            kernel, times = attention.choose(shape, self._device, self._dtype)
        backend: str | None = self._backend
        reasons = []
        while backend is not None:
            began = time.perf_counter()
            try:
                path = Path(self._build(backend), kernel)
                predicted = self._predict(bucket, path)
                error = 0.0 if reference is None else relative_l2(predicted, reference)
                self._check(error, unit)
            except Exception as failure:  # compilers raise anything; the next backend is tried and the reason is said
                reasons.append(f"{backend}: {type(failure).__name__}: {' '.join(str(failure).split())[:300]}")
                backend = FALLBACK.get(backend)
                continue
            built = time.perf_counter()
            self._predict(bucket, path)
            readiness = Readiness(
                bucket=bucket,
                backend=backend,
                precision=self._served_precision,
                attention=kernel,
                build_seconds=built - began,
                prediction_seconds=time.perf_counter() - built,
                relative_l2=error,
                rounding_l2=unit if reference is not None else 0.0,
                fallback="; ".join(reasons),
                attention_milliseconds=times,
            )
            return path, readiness
        raise ConfigurationError(
            f"bucket {bucket} cannot be served in precision {self._precision}: {'; '.join(reasons)}"
        )

    @property
    def _served_precision(self) -> str:
        converted = self._precision != "bf16" or self._dtype is torch.bfloat16
        return self._precision if converted else str(self._dtype).removeprefix("torch.")

    def _check(self, error: float, unit: float) -> None:
        """Refuse a path that is too far from the eager network."""
        # Where a path and the eager network err independently, each by its own distance from float32, the distance
        # between them is at most the sum.
        factor = GATE_FACTORS[self._served_precision]
        limit = (factor + 1) * unit
        if not error <= limit:  # NaN too
            raise ArithmeticError(f"relative L2 {error:.3g} from the eager network; the gate is {limit:.3g}")

    def _build(self, backend: str) -> Sequence[Callable[..., Tensor]]:
        if backend == "eager":
            return self._denoiser.eager.blocks
        if self._compiled is None:
            self._compiled = [torch.compile(block.forward, fullgraph=True, dynamic=False) for block in self._blocks]
        return self._compiled

    def _predict(self, bucket: Bucket, path: Path) -> Tensor:
        given = self._inputs(bucket)
        with torch._dynamo.config.patch(recompile_limit=MAX_SHAPES, accumulated_recompile_limit=4 * MAX_SHAPES):
            velocity: Tensor = self._denoiser(given.latents, given.timestep, given.text, given.inpaint, path)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return velocity

    def _inputs(self, bucket: Bucket) -> Inputs:
        config = self._denoiser.transformer.config
        generator = torch.Generator().manual_seed(0)
        size = ((bucket.frames - 1) // 4 + 1, bucket.height // 8, bucket.width // 8)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self._device, self._dtype)

        channels = config.out_channels
        return Inputs(
            latents=draw(1, channels, *size),
            timestep=torch.full((1,), TIMESTEP, device=self._device, dtype=self._dtype),
            text=draw(1, TEXT_TOKENS, config.text_embed_dim),
            inpaint=draw(1, config.in_channels - channels, *size),
        )

    def _attention_shape(self, bucket: Bucket) -> torch.Size:
        config = self._denoiser.transformer.config
        video = ((bucket.frames - 1) // 4 + 1) * (bucket.height // 16) * (bucket.width // 16)
        return torch.Size((1, TEXT_TOKENS + video, config.num_attention_heads, config.attention_head_dim))


@contextmanager
def no_compilation() -> Iterator[None]:
    """Make a recompilation an error: everything that requests need was compiled before the first one came."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def relative_l2(result: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float32."""
    reference = reference.float()
    return float((result.float() - reference).norm() / reference.norm())


def in_type(block: Block, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A block that computes in another type, with a copy of its weights that lives as long as one call."""

    def run(x: Tensor, emb: Tensor, rope: tuple[Tensor, Tensor], texts: int, kernel: str) -> Tensor:
        result: Tensor = copy.deepcopy(block).to(dtype)(x.to(dtype), emb.to(dtype), rope, texts, kernel)
        return result.to(x.dtype)

    return run


def to_fp8(denoiser: Denoiser, layer: type[Fp8Linear | CastLinear] = Fp8Linear) -> None:
    """Convert the large products of all blocks in place; modulation, embeddings and the head stay as they are.

    The stock transformer's layers, which share these weights, lose them and cannot run any more.
    """
    for number in range(len(denoiser.blocks)):
        block_to_fp8(denoiser, number, layer)


def block_to_fp8(denoiser: Denoiser, number: int, layer: type[Fp8Linear | CastLinear]) -> None:
    """Convert the large products of one block in place; see `to_fp8`."""
    block, stock = denoiser.blocks[number], denoiser.transformer.transformer_blocks[number]
    for layers in (block.video, block.text):
        if layers is not None:
            for name in ("qkv", "out", "ff_in", "ff_out"):
                setattr(layers, name, layer(getattr(layers, name)))
    for branch in (stock.attn1, stock.ff, stock.txt_ff):
        for linear in branch.modules() if branch is not None else ():
            if isinstance(linear, nn.Linear):
                linear.weight.data = linear.weight.data.new_empty(0)
