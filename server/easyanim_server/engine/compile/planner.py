"""How each bucket's blocks run: chosen by measurement, built, checked and warmed before the first request."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.model import BucketStatus
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.domain.shape import Geometry
from easyanim_server.domain.wording import counted
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.compile.backends import Backends
from easyanim_server.engine.compile.numeric_check import FACTORS, ROUNDING, NumericCheck, relative_l2
from easyanim_server.engine.compile.precision import CastLinear, Fp8Linear, require_fp8
from easyanim_server.engine.compile.reference_cache import ReferenceCache
from easyanim_server.engine.families.runtime import Block, Denoiser, ExecutionPath
from easyanim_server.engine.finite import is_finite, missing
from easyanim_server.engine.guidance import BATCHED, SEQUENTIAL, StepExecution, eager_guidance
from easyanim_server.engine.kernels.conv_linear import ConvolvedLinear, convolving_is_faster
from easyanim_server.engine.memory.placement import Placement
from easyanim_server.engine.prediction import Predictor

FALLBACK = {"tensorrt": "inductor", "inductor": "eager"}
"""What is tried where a backend fails."""

UNIT_LATENT_FRAMES = 4
"""Most latent frames of the clip that eager rounding is measured on: float32 has no fast products, and rounding little
to do with the number of tokens."""

SATURATED = 0.1
"""Seconds of a prediction beyond which guidance is never tried in a batch of two: one sample then fills any card, and
batches were measured to be up to 1.5 % slower, for twice the activations."""

CLEARLY = 0.95
"""Share of the time of two predictions under which they are made together."""

MEASUREMENTS = 5
"""Of each way to make the two predictions of guidance."""

DAMAGED = "the model's weights are damaged, or overflow in this type"
"""What is wrong where a model gives no numbers whatever it is given."""


@dataclass(frozen=True, eq=False)
class PreparedBucket:
    """A shape that is built, checked and warmed."""

    execution: StepExecution
    status: BucketStatus


class Planner:
    """Prepares a denoiser for its buckets.

    Args:
        predictor: Runs the denoiser, whose blocks are converted in place where the precision asks for it.
        placement: Where the weights are.
        geometry: Of the model.
        backend: ``eager``, ``inductor``, ``tensorrt``, or ``auto``: inductor on CUDA, eager on the CPU.
        precision: ``bf16`` leaves the weights in the type they were loaded in; ``fp8`` converts the large ones;
            ``fp8-weights`` stores them in 8 bits and casts them before every product.
        kernel: An attention kernel by name, or ``auto`` to measure.
        batch: Whether the two predictions of guidance are made one by one or in a batch of two; ``auto`` measures.

    Raises:
        ConfigurationError: the device lacks what was asked for.
    """

    def __init__(
        self,
        predictor: Predictor,
        placement: Placement,
        geometry: Geometry,
        backend: str,
        precision: str,
        kernel: str,
        batch: Literal["auto", "1", "2"] = "1",
    ) -> None:
        self._denoiser = predictor.denoiser
        self._placement = placement
        self._unit_frames = geometry.frames_of(UNIT_LATENT_FRAMES)
        self._backends = Backends(predictor, placement.device)
        self._device, self._dtype = self._backends.device, self._backends.dtype
        self._backend = backend if backend != "auto" else ("inductor" if self._device.type == "cuda" else "eager")
        self._precision = precision
        if precision == "fp8":
            require_fp8(self._device)
        self._largest = self._denoiser.largest_product()
        offered = attention.available(self._device, self._dtype, self._largest)
        if kernel not in ("auto", *offered):
            raise ConfigurationError(
                f"attention {kernel!r} cannot run here; must be auto or one of {', '.join(offered)}"
            )
        self._kernel = kernel
        self._batch = batch
        self._prepared = False

    @torch.no_grad()
    def prepare(
        self,
        buckets: Sequence[Bucket],
        report: Callable[[str], None],
    ) -> dict[Bucket, PreparedBucket]:
        """Build and check a path for every bucket, those with the fewest tokens first. To be called once.

        Args:
            buckets: Shapes to serve.
            report: Told what is being done, in one sentence.

        Raises:
            ConfigurationError: no path of this precision is near enough to the eager network, or that one gives no
                finite numbers.
            RuntimeError: it was called before; weights may be converted, so nothing is left to compare with.
        """
        if self._prepared:
            raise RuntimeError("buckets are prepared once, all together")
        self._prepared = True
        ordered = sorted(dict.fromkeys(buckets), key=lambda bucket: bucket.height * bucket.width * bucket.frames)
        quantised = self._precision != "bf16"
        faster = self._backend != "eager" or quantised
        references: dict[Bucket, Tensor] = {}
        unit = ROUNDING
        if faster:
            references, unit = self._references(ordered, quantised, report)
        if quantised:
            report("converting weights to fp8")
            layer = Fp8Linear if self._precision == "fp8" else CastLinear
            self._placement.rebuild(lambda number: self._denoiser.replace_products(number, layer, give_up=True))
        elif self._may_convolve() and cache.once(
            f"products in {self._dtype}", partial(convolving_is_faster, self._dtype)
        ):
            convolve(self._denoiser)
        plans = {}
        precision = self._served_precision
        for number, bucket in enumerate(ordered, 1):
            report(f"building {bucket} ({self._backend}, {precision}), {number} of {counted(len(ordered), 'bucket')}")
            plans[bucket] = self._plan(bucket, NumericCheck(references.get(bucket), unit, FACTORS[precision]))
        return plans

    def _may_convolve(self) -> bool:
        return self._device.type == "cpu" and not self._denoiser.exact

    def _references(
        self, buckets: Sequence[Bucket], quantised: bool, report: Callable[[str], None]
    ) -> tuple[dict[Bucket, Tensor], float]:
        """The eager network's predictions, and how far rounding takes them; kept in the cache, if there is one."""
        # Of float32 itself, 8 bits are as far as they are of bfloat16, whose rounding is their measure.
        other = torch.bfloat16 if quantised and self._dtype is torch.float32 else torch.float32
        clip = replace(buckets[0], frames=min(buckets[0].frames, self._unit_frames))
        rounding = f"rounding of {clip} to {other}"
        kept = ReferenceCache(cache.part(cache.REFERENCES), self._denoiser.network, self._denoiser.mode)
        if kept.missing(rounding, *map(str, buckets)):
            report("computing what faster paths are compared with")

        def distance() -> Tensor:
            wide = ExecutionPath([in_type(block, other) for block in self._denoiser.blocks])
            narrow = self._backends.predict(clip, self._denoiser.eager)
            return torch.tensor(relative_l2(narrow, self._backends.predict(clip, wide)), dtype=torch.float64)

        with self._placement.streamed():
            references = {
                bucket: kept.get(
                    str(bucket), self._device, partial(self._backends.predict, bucket, self._denoiser.eager)
                )
                for bucket in buckets
            }
            for bucket, reference in references.items():
                if not is_finite(reference):
                    raise ConfigurationError(
                        f"bucket {bucket} cannot be served: {missing(reference)} of the eager network's prediction "
                        f"are NaN or infinite; {DAMAGED}"
                    )
            unit = float(kept.get(rounding, torch.device("cpu"), distance))
        kept.save()
        return references, max(unit, ROUNDING)

    def _plan(self, bucket: Bucket, gate: NumericCheck) -> PreparedBucket:
        kernel, times = self._choose_kernel(self._denoiser.attention_shape(bucket))
        backend: str | None = self._backend
        reasons = []
        while backend is not None:
            began = time.perf_counter()
            try:
                path = ExecutionPath(self._backends.build(backend, bucket, kernel), kernel)
                predicted = self._backends.predict(bucket, path)
                error = gate.check(predicted)
            except Exception as failure:  # compilers raise anything; the next backend is tried and the reason is said
                reasons.append(_reason(backend, failure))
                backend = FALLBACK.get(backend)
                continue
            built = time.perf_counter()
            pairs, reason = self._pairs(bucket, path, backend, gate)
            unpaired = eager_guidance(self._denoiser) if backend == "eager" else SEQUENTIAL
            readiness = BucketStatus(
                bucket=bucket,
                backend=backend,
                precision=self._served_precision,
                attention=kernel,
                guidance_batch=2 if pairs else 1,
                build_seconds=built - began,
                relative_l2=error,
                cosine=gate.cosine(predicted),
                rounding_l2=gate.rounding if gate.reference is not None else 0.0,
                fallback="; ".join([*reasons, *reason]),
                attention_milliseconds=times,
            )
            return PreparedBucket(StepExecution(path, BATCHED if pairs else unpaired), readiness)
        raise ConfigurationError(
            f"bucket {bucket} cannot be served in precision {self._precision}: {'; '.join(reasons)}"
        )

    def _choose_kernel(self, shape: torch.Size) -> tuple[str, dict[str, float]]:
        """The attention kernel for a shape, and the milliseconds of those that were measured."""
        if self._kernel != "auto":
            return self._kernel, {}
        offered = attention.candidates(self._device, self._dtype, self._largest)
        times = cache.once(
            f"attention of {tuple(shape)} in {self._dtype} by {', '.join(offered)}",
            partial(attention.measure, shape, self._device, self._dtype, offered),
            lasting=lambda times: times.keys() == set(offered),  # memory that was short may be there another time
        )
        return attention.fastest(times), times

    def _pairs(
        self, bucket: Bucket, path: ExecutionPath, backend: str, gate: NumericCheck
    ) -> tuple[bool, Sequence[str]]:
        """Whether the two predictions of guidance are made together; and what speaks against it where it was asked for.

        By default they are where that is faster, fits and computes the same. On the CPU nothing is measured.
        """
        if self._batch == "1" or (self._batch == "auto" and not self._may_pair(backend)):
            return False, ()
        try:
            if backend == "tensorrt":
                raise ValueError("engines are built for one sample")
            placed = f"{backend} in {self._served_precision} by {path.kernel}"
            blocks = f"{len(self._denoiser.blocks)} blocks of {tuple(self._denoiser.attention_shape(bucket))}"
            won = self._batch == "2" or cache.once(
                f"guidance of {blocks}, {placed}", partial(self._pairing_is_faster, bucket, path)
            )
            if won:  # compiled now, where it was only measured at an earlier start
                for predicted in self._backends.predict(bucket, path, batch=2).chunk(2):
                    gate.check(predicted)
            return won, ()
        except Exception as failure:  # as with backends
            return False, [_reason("guidance in a batch of two", failure)] if self._batch == "2" else ()

    def _may_pair(self, backend: str) -> bool:
        """Whether it is worth measuring: where weights make room for activations, these are not doubled."""
        full = self._placement.current is WeightPlacement.FULL
        return self._device.type == "cuda" and backend != "tensorrt" and full

    def _pairing_is_faster(self, bucket: Bucket, path: ExecutionPath) -> bool:
        if self._seconds(bucket, path, batch=1, times=1) > SATURATED:
            return False
        self._backends.predict(bucket, path, batch=2)  # compiles
        return self._seconds(bucket, path, batch=2) < CLEARLY * 2 * self._seconds(bucket, path, batch=1)

    def _seconds(self, bucket: Bucket, path: ExecutionPath, batch: int, times: int = MEASUREMENTS) -> float:
        """What a prediction takes that has run before; the median of a few."""
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            self._backends.predict(bucket, path, batch)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    @property
    def _served_precision(self) -> str:
        converted = self._precision != "bf16" or self._dtype is torch.bfloat16
        return self._precision if converted else str(self._dtype).removeprefix("torch.")


def _reason(what: str, failure: Exception) -> str:
    """Why something is not used, in one line."""
    return f"{what}: {type(failure).__name__}: {' '.join(str(failure).split())[:300]}"


def in_type(block: Block, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A block that computes in another type, with a copy of its weights that lives as long as one call."""

    def run(x: Tensor, emb: Tensor, rope: tuple[Tensor, Tensor], texts: int, kernel: str) -> Tensor:
        result: Tensor = copy.deepcopy(block).to(dtype).forward(x.to(dtype), emb.to(dtype), rope, texts, kernel)
        return result.to(x.dtype)

    return run


def convolve(denoiser: Denoiser) -> None:
    """Let the large products of all blocks be convolutions, of the same weights; see `kernels.conv_linear`."""
    for number in range(len(denoiser.blocks)):
        denoiser.replace_products(number, ConvolvedLinear)


def to_fp8(denoiser: Denoiser, layer: type[Fp8Linear | CastLinear] = Fp8Linear) -> None:
    """Convert the large products of all blocks in place; modulation, embeddings and the head stay as they are.

    Modules that share these weights lose them and cannot run any more.
    """
    for number in range(len(denoiser.blocks)):
        denoiser.replace_products(number, layer, give_up=True)
