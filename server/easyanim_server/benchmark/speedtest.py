"""One model's guided steps and whole generations in every variant that is compared, one after the other."""

from __future__ import annotations

import gc
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch._inductor.utils import clear_caches, fresh_cache

from easyanim_server.benchmark.stopwatch import Stopwatch, Timing
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import DEFAULT_GUIDANCE, Bucket, Job, Picture
from easyanim_server.engine import loop
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.compile.backends import MAX_SHAPES, Backends
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.compile.planner import to_fp8
from easyanim_server.engine.compile.precision import require_fp8
from easyanim_server.engine.devices import GIB
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.cost import step_flops
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.text import TEXT, TEXT_T5
from easyanim_server.engine.families.easyanimate_v51.transformer import INPAINT, example_inputs
from easyanim_server.engine.families.runtime import Condition, ExecutionPath, resident
from easyanim_server.engine.guidance import BATCHED, SEQUENTIAL, StepExecution, eager_execution
from easyanim_server.engine.pixels import to_uint8
from easyanim_server.engine.prediction import Predictor
from easyanim_server.engine.sampling import NEGATIVE_PROMPT, PROMPT, Sampling
from easyanim_server.engine.weights import checkpoint

STOCK, STOCK_COMPILED = "diffusers", "diffusers-compiled"
STOCK_TEXTS = {TEXT: "encoder_hidden_states", TEXT_T5: "encoder_hidden_states_t5"}
"""How diffusers' transformer names a prompt's embeddings. It reads those of V5 too, for which there is no pipeline."""

Run = Callable[[], Tensor]
"""One guided step less its sum: both velocities, (2, channels, latent frames, rows, columns)."""


@dataclass(frozen=True)
class Variant:
    """One way to run the transformer."""

    backend: str
    """``diffusers`` is the stock classes, ``diffusers-compiled`` the same with their blocks compiled by torch; ours
    are those of `BACKENDS`."""
    precision: str = "bf16"
    """``bf16`` or ``fp8``."""
    pairs: bool = False
    """Whether ours makes the two predictions of guidance in a batch of two, as stock diffusers does."""

    @property
    def stock(self) -> bool:
        """Whether diffusers' own forward runs."""
        return self.backend in (STOCK, STOCK_COMPILED)

    @property
    def compiled(self) -> bool:
        """Whether a compiler is at work."""
        return self.backend in (STOCK_COMPILED, "inductor", "tensorrt")

    @property
    def reference(self) -> bool:
        """Whether others of the same network are compared with this one's velocities."""
        return self.backend in (STOCK, "eager") and self.precision == "bf16" and not self.pairs

    @property
    def cfg(self) -> str:
        """How the two predictions of guidance are made."""
        return "batch of 2" if self.stock or self.pairs else "2 x batch of 1"


@dataclass(frozen=True)
class Step:
    """One guided step of one variant in one bucket: two predictions."""

    timing: Timing
    tflops: float
    """Achieved, in 10^12 operations a second."""
    attention: str
    """The kernel; ``torch`` where torch chose."""
    peak_gib: float | None
    """Most memory of the device, less what text encoder and VAE hold; None on the CPU."""
    relative_l2: float | None
    """Distance of the velocities from those of the same network eagerly in bf16: stock from stock, ours from ours.
    None where those could not be measured."""
    compile_cold_s: float | None
    """How much longer than later ones the first step took with empty caches, and building what TensorRT builds before;
    None where nothing is compiled."""
    compile_warm_s: float | None
    """The same with the caches that this left on disk, as at the next start; None where it was not measured."""


@dataclass(frozen=True)
class Generation:
    """Seconds of one generation's phases, from prompts and picture to frames on the host."""

    around: dict[Phase, float]
    """All phases but denoising. Text is left out where the model has no text encoder."""
    denoise: dict[int, float]
    """Denoising by number of steps."""


class SpeedTest:
    """Measures variants in this order: stock ones, ours in bf16, ours in fp8, which gives the bf16 weights up.

    The stock network runs as diffusers makes it until ours is asked for the first time, which shares its weights.

    Args:
        model: As `checkpoint.load` takes it. Synthetic ones are made without a text encoder, whose share is small.
        device: Where to measure. Networks are in bfloat16 everywhere.
        repeats: How often a step is measured at most.

    Raises:
        UnsupportedModel: there is no such model.
    """

    def __init__(self, model: str, device: torch.device, repeats: int) -> None:
        self._modules = _load(model, device)
        self._geometry = self._modules.geometry
        self._text_tokens = dict(zip(STOCK_TEXTS, self._modules.text_side().tokens, strict=False))
        self._reads_text = model not in builtin.SYNTHETIC
        self._device = device
        self._repeats = repeats
        self._stopwatch = Stopwatch(device)
        self._execution: StepExecution | None = None
        self._references: dict[tuple[bool, Bucket], Tensor] = {}
        self._kernels: dict[Bucket, str] = {}
        self._precision = "bf16"

    @torch.no_grad()
    def step(self, variant: Variant, bucket: Bucket, *, warm: bool = False) -> Step:
        """Measure a guided step.

        Args:
            variant: What runs.
            bucket: The video's shape.
            warm: Whether to compile a second time, from the caches that the first time left.

        Raises:
            ConfigurationError: the device lacks what `variant` needs.
            ValueError: bf16 is asked for after fp8.
            Exception: whatever compilers and kernels raise; `release` then makes room for the next.
        """
        self._convert(variant.precision)
        torch._dynamo.reset()
        again = None
        if not variant.stock:
            self._kernel(bucket)  # measured before the clock runs
        with _empty_caches() if variant.compiled else nullcontext(), _room_for_shapes():
            building, run = self._stopwatch.once(lambda: self._run(variant, bucket))
            first, velocities = self._stopwatch.once(run)
            timing = self._stopwatch.repeat(run, self._repeats)
            if warm and variant.compiled and variant.backend != "tensorrt":  # which keeps its engines elsewhere
                torch._dynamo.reset()
                clear_caches()  # of this process; those on disk stay
                again, _ = self._stopwatch.once(self._run(variant, bucket))
        network = (variant.stock, bucket)
        if variant.reference:
            self._references[network] = velocities
        reference = self._references.get(network)
        usual = timing.median / 1000
        return Step(
            timing=timing,
            tflops=self._flops(variant, bucket) / usual / 1e12,
            attention="torch" if variant.stock else self._kernel(bucket),
            peak_gib=(timing.peak_bytes - self._other_bytes) / GIB if timing.peak_bytes else None,
            relative_l2=None if reference is None else relative_l2(velocities, reference),
            compile_cold_s=max(0.0, building + first - usual) if variant.compiled else None,
            compile_warm_s=max(0.0, again - usual) if again is not None else None,
        )

    @torch.no_grad()
    def generation(self, bucket: Bucket, counts: Sequence[int]) -> Generation:
        """Measure a whole generation in the variant of ours that this bucket's step was measured in last.

        A generation of few steps begins as one of many does, so one run gives the times of all: the clock is read
        after each number of steps.

        Args:
            bucket: The video's shape.
            counts: Numbers of steps; none leaves denoising out.
        """
        grey = Picture(bucket.width, bucket.height, b"\x80" * (3 * bucket.width * bucket.height))
        job = Job("bench", "a cat", "ugly", bucket, max(counts, default=1), DEFAULT_GUIDANCE, seed=0, start=grey)
        short = replace(job, bucket=replace(bucket, frames=min(bucket.frames, self._geometry.frames_of(2))))
        self._decode(self._begin(short, self._texts(job)).latents)  # shows the VAE every shape

        around = {}
        seconds, texts = self._stopwatch.once(lambda: self._texts(job))
        if self._reads_text:
            around[Phase.TEXT_ENCODE] = seconds
        around[Phase.IMAGE_ENCODE], sampling = self._stopwatch.once(lambda: self._begin(job, texts))
        denoise, total = {}, 0.0
        for count in sorted(set(counts)):
            total += self._stopwatch.once(lambda count=count: self._advance(sampling, count))[0]  # type: ignore[misc]
            denoise[count] = total
        around[Phase.DECODE], _ = self._stopwatch.once(lambda: self._decode(sampling.latents))
        return Generation(around, denoise)

    def release(self, error: BaseException) -> None:
        """Give back what a failed measurement holds of the device's memory."""
        traceback.clear_frames(error.__traceback__)  # the traceback keeps their tensors alive
        torch._dynamo.reset()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _pipeline(self) -> EasyAnimatePipeline:
        return EasyAnimatePipeline(self._modules)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self._pipeline.denoiser)

    @cached_property
    def _other_bytes(self) -> int:
        """Memory of the networks that no step needs."""
        networks = (self._modules.vae, self._modules.text_encoder)
        return sum(parameter.nbytes for network in networks for parameter in network.parameters())

    def _convert(self, precision: str) -> None:
        if precision == self._precision:
            return
        if precision != "fp8":
            raise ValueError(f"{precision} must be measured before {self._precision}, which gives its weights up")
        require_fp8(self._device)
        to_fp8(self._pipeline.denoiser)
        self._precision = precision

    def _run(self, variant: Variant, bucket: Bucket) -> Run:
        """A step, compiled anew where the variant is compiled."""
        config, shape = self._modules.transformer.config, self._geometry.latent_shape(bucket)
        inputs, prompt = example_inputs(config, self._text_tokens, shape, self._device, torch.bfloat16)
        negative = {name: text.flip(1) for name, text in prompt.items()}
        if not variant.stock:
            predictor, kernel = self._predictor, self._kernel(bucket)
            blocks = Backends(predictor, self._device).build(variant.backend, bucket, kernel)
            path, guidance = ExecutionPath(blocks, kernel), BATCHED if variant.pairs else SEQUENTIAL
            self._execution = StepExecution(path, guidance)
            return lambda: torch.cat(guidance.predict(predictor, inputs, [prompt, negative], path)[::-1])

        transformer = self._modules.transformer
        if variant.compiled:
            transformer._repeated_blocks = ["EasyAnimateTransformerBlock"]  # diffusers' class does not name it
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        twice: dict[str, Tensor] = {STOCK_TEXTS[name]: torch.cat([negative[name], prompt[name]]) for name in prompt}
        if INPAINT in inputs.given:
            twice["inpaint_latents"] = torch.cat([inputs.given[INPAINT]] * 2)
        latents, times = torch.cat([inputs.latents] * 2), inputs.timestep.repeat(2)
        return lambda: transformer(latents, times, **twice, return_dict=False)[0]

    def _kernel(self, bucket: Bucket) -> str:
        """The fastest attention kernel for our batches of one."""
        if bucket not in self._kernels:
            shape = self._pipeline.denoiser.attention_shape(bucket)
            largest = self._pipeline.denoiser.largest_product()
            offered = attention.candidates(self._device, torch.bfloat16, largest)
            times = attention.measure(shape, self._device, torch.bfloat16, offered)
            self._kernels[bucket] = attention.fastest(times)
        return self._kernels[bucket]

    def _flops(self, variant: Variant, bucket: Bucket) -> int:
        config, tokens = self._modules.transformer.config, self._geometry.video_tokens(bucket)
        mode: AttentionMode = "diffusers" if variant.stock else "original"
        texts = [*self._text_tokens.values(), 0]
        return step_flops(config, tokens, texts[0], 2, mode, stock=variant.stock, texts_t5=texts[1]).total

    def _texts(self, job: Job) -> dict[str, Condition]:
        prompts = {PROMPT: job.prompt, NEGATIVE_PROMPT: job.negative_prompt}
        return {name: self._pipeline.encode_text(prompt, resident) for name, prompt in prompts.items()}

    def _begin(self, job: Job, texts: dict[str, Condition]) -> Sampling:
        return loop.begin(self._pipeline, job, texts, resident, _unobserved)

    def _advance(self, sampling: Sampling, count: int) -> None:
        execution = self._execution or eager_execution(self._pipeline.denoiser)
        while sampling.index < count:
            loop.step(self._predictor, sampling, execution)

    def _decode(self, latents: Tensor) -> None:
        for video in self._pipeline.decode(latents, resident):
            to_uint8(video[0]).cpu()


def _load(model: str, device: torch.device) -> Components:
    if model in builtin.SYNTHETIC:
        return builtin.synthetic(builtin.SYNTHETIC[model], device=device, dtype=torch.bfloat16, text_layers=0)
    loaded: Components = checkpoint.load(model, device=device, dtype=torch.bfloat16)
    return loaded


@contextmanager
def _empty_caches() -> Iterator[None]:
    """Let compilers find nothing from before, on disk or in memory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, fresh_cache(dir=folder):
        yield


@contextmanager
def _room_for_shapes() -> Iterator[None]:
    """Let dynamo keep a compiled variant for every kind of block, where by default it would give up."""
    with torch._dynamo.config.patch(recompile_limit=MAX_SHAPES, accumulated_recompile_limit=4 * MAX_SHAPES):
        yield


def _unobserved(phase: Phase, completed: int, total: int) -> None:
    """Observe nothing."""
