"""One model on one device: encode, denoise, decode.

It needs no server, protobuf or environment:

>>> from easyanim_server.config.settings import Settings
>>> from easyanim_server.engine.engine import Engine
>>> from easyanim_server.domain.job import Bucket, Job
>>> engine = Engine.from_settings(Settings(model="builtin:tiny", device="cpu", backend="eager"))
>>> sampling = engine.begin(Job("1", "a cat", "ugly", Bucket.parse("32x48x5"), steps=2, guidance=6.0, seed=1))
>>> while not sampling.done:
...     engine.step(sampling)
>>> [frames.shape for frames in engine.decode(sampling)]
[(1, 32, 48, 3), (4, 32, 48, 3)]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from easyanim_server.config.settings import Settings
from easyanim_server.domain.events import Phase, Work
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, Capabilities, Lookups, ModelInfo, PromptTokenizer
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine import loop, snapshot
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.compile.planner import Planner
from easyanim_server.engine.compile.precision import resolve_precision
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.devices import device_uuids, limit_memory, peak_bytes, synchronize
from easyanim_server.engine.families.base import LoadOptions, ModelFamily
from easyanim_server.engine.families.registry import recognise
from easyanim_server.engine.families.runtime import DENOISER, Condition, Pipeline
from easyanim_server.engine.finite import require_finite
from easyanim_server.engine.guidance import StepExecution, eager_execution
from easyanim_server.engine.memory.choose import PlacementChoice, find_placement
from easyanim_server.engine.memory.oom_retry import OomRetry, shortage_named
from easyanim_server.engine.memory.placement import Placement
from easyanim_server.engine.model_info import model_info
from easyanim_server.engine.pixels import to_uint8
from easyanim_server.engine.prediction import Predictor
from easyanim_server.engine.prompt_cache import PromptCache
from easyanim_server.engine.sampling import NEGATIVE_PROMPT, PROMPT, Sampling
from easyanim_server.engine.step_cache.teacache import resolve_coefficients
from easyanim_server.engine.warmup import warm_up
from easyanim_server.engine.weights import checkpoint

log = logging.getLogger(__name__)


def unobserved(phase: Phase, completed: int, total: int) -> None:
    """Observe nothing."""


class Engine:
    """Implements `protocols.Engine`. Several samplings may be under way; calls come from one thread at a time.

    A call that fails or is left through its observer leaves no trace: the next one gives what a fresh engine would.

    Args:
        pipeline: The model.
        backend: How prepared buckets run: `eager`, `inductor`, `tensorrt` or `auto`.
        precision: Of the large products of prepared buckets: `bf16` (as loaded), `fp8` or `fp8-weights`.
        attention: The kernel of prepared buckets; `auto` measures.
        guidance_batch: How many predictions of guidance prepared buckets make at once; `auto` measures.
        placement: Where the weights are; see `Placement`.
        choice: Why they are there, and what buckets were predicted to take.
        locked_limit: Most bytes of host memory to lock into place for copies to the device.
        cache_coefficients: A file of `step_cache.fit.Fit`; by default the published numbers of the model's shape.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        backend: str = "eager",
        precision: str = "bf16",
        attention: str = "torch",
        guidance_batch: Literal["auto", "1", "2"] = "1",
        placement: str = "full",
        choice: PlacementChoice | None = None,
        locked_limit: int = 0,
        cache_coefficients: Path | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.placement = Placement(WeightPlacement(placement), pipeline.components, pipeline.device, locked_limit)
        """Where the weights are."""
        self.predictor = Predictor(pipeline.denoiser, self.placement.offload(DENOISER))
        self._device = pipeline.device
        self._choice = choice
        self._second_try = OomRetry(self.placement, pipeline.device)
        self._prompts = PromptCache(partial(pipeline.encode_text, need=self.placement.need))
        geometry = pipeline.capabilities.geometry
        self._planner = Planner(self.predictor, self.placement, geometry, backend, precision, attention, guidance_batch)
        self._executions: dict[Bucket, StepExecution] = {}
        self._readiness: dict[Bucket, BucketStatus] = {}
        self._told: torch.cuda.Event | None = None
        """After the last step that the device was told."""
        self._model = model_info(pipeline, placement, choice.reason if choice else "")
        self._cache_coefficients = resolve_coefficients(
            cache_coefficients, pipeline.cache_coefficients, self._model.fingerprint
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Engine:
        """Resolve settings and load the model that they name; what worker processes call.

        Raises:
            ConfigurationError: as `EngineConfig.resolve` and `load`.
            UnsupportedModel: as `load`.
        """
        return cls.load(EngineConfig.resolve(settings))

    @classmethod
    def load(cls, config: EngineConfig, families: Sequence[ModelFamily] | None = None) -> Engine:
        """Find a model, decide where its weights go, and load it.

        Args:
            config: The model, the device and how to run.
            families: Those that the model may be of; by default all that are registered.

        Raises:
            ConfigurationError: the model does not make a bucket, or there is not enough memory for one.
            UnsupportedModel: this engine cannot run the model.
        """
        limit_memory(config.device, config.vram_limit_gib)
        index = checkpoint.find(config.model, config.revision)
        family = recognise(index, families)
        config = config.of_model(family.capabilities(index))
        choice = find_placement(config, lambda: family.outline(index, config.dtype))
        if config.tuned:
            choice = replace(choice, reason=f"{choice.reason}; {config.tuned}")
        precision = resolve_precision(config.precision, choice.placement.in_8_bits, config.device)
        log.info("placement %s: %s", choice.placement, choice.reason)
        if config.backend is not Backend.EAGER or config.device.type == "cuda":
            cache.use(config.cache_dir, config.device)  # kernels are compiled on CUDA without a compiler too
        if config.cpu_threads:
            torch.set_num_threads(config.cpu_threads)
        index = checkpoint.complete(index, family.files(index), config.revision)
        options = LoadOptions(
            config.device,
            config.dtype,
            on_host=choice.placement.starts_on_host,
            attention_mode=config.attention_mode,
            noise_augmentation=config.noise_augmentation,
            tiled=partial(choice.wants_tiles, config.vae_tiling),
            sliced=config.vae_slicing,
        )
        return cls(
            family.load(index, options),
            backend=config.backend.value,
            precision=precision,
            attention=config.attention,
            guidance_batch=config.guidance_batch,
            placement=choice.placement.value,
            choice=choice,
            locked_limit=config.locked_limit,
            cache_coefficients=config.cache_coefficients,
        )

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for."""
        return self.pipeline.capabilities

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""
        return self.pipeline.tokenizer

    def prepare(
        self, buckets: Sequence[Bucket], report: Callable[[str], None] = lambda detail: None
    ) -> tuple[BucketStatus, ...]:
        """Make buckets ready: build and check how their steps run, then run each shape once.

        Args:
            buckets: What will be asked for. Others still work, eagerly.
            report: Told what is being done, in one sentence.

        Raises:
            ConfigurationError: they cannot be served as this engine was configured, or the model gives no finite
                numbers.
        """
        prepared = self._planner.prepare(buckets, report)
        self._executions = {bucket: item.execution for bucket, item in prepared.items()}
        self._readiness = {bucket: item.status for bucket, item in prepared.items()}
        report("running every shape once")
        with self._second_try.withheld():  # a bucket that does not fit must not look as if it did
            self._readiness = warm_up(self, self._readiness, self._choice)
        found = cache.lookups()
        log.info("compiled code: %d graphs found in the cache, %d made", found.hits, found.misses)
        served = tuple(self.readiness(bucket) for bucket in dict.fromkeys(buckets))
        cache.remember(self._model.name, [readiness.facts() for readiness in served])
        return served

    def readiness(self, bucket: Bucket) -> BucketStatus:
        """How a bucket is served; one that was not prepared runs eagerly."""
        known = self._readiness.get(bucket, BucketStatus(bucket, "eager", self._model.dtype, "torch"))
        return replace(known, placement=self.placement.name)

    def begin(self, job: Job, observe: Observer = unobserved) -> Sampling:
        """Encode text and pictures and draw the noise.

        Args:
            job: What to generate.
            observe: Called with (phase, 0, total) before a phase and after each of its units: prompts of
                `TEXT_ENCODE`, frames of `IMAGE_ENCODE`, a phase that text to video has not.

        Returns:
            A sampling at step 0.

        Raises:
            ValueError: the job contradicts itself or asks for what the model cannot make.
            OutOfDeviceMemory: the device cannot hold it.
            NonFinite: prompts or pictures are encoded to what are no numbers.
        """

        def finished(phase: Phase, completed: int, total: int) -> None:
            if completed == total:  # else its time would be the next phase's
                synchronize(self._device)
            observe(phase, completed, total)

        prompts = {PROMPT: job.prompt} | ({NEGATIVE_PROMPT: job.negative_prompt} if job.guidance > 1 else {})
        self.placement.restore()
        self._told = None
        conditions: dict[str, Condition] = {}
        finished(Phase.TEXT_ENCODE, 0, len(prompts))
        for name, prompt in prompts.items():
            conditions[name] = self._second_try(partial(self._prompts, prompt))
            finished(Phase.TEXT_ENCODE, len(conditions), len(prompts))
        pipeline, coefficients = self.pipeline, self._cache_coefficients
        sampling = self._second_try(
            lambda: loop.begin(pipeline, job, conditions, self.placement.need, finished, coefficients)
        )
        if job.start is not None:
            for tensor in sampling.inputs.values():
                require_finite(tensor, "the pictures' latents")
        return sampling

    def step(self, sampling: Sampling) -> None:
        """Take one denoising step in place; where it fails, `sampling` is as it was.

        A device works one step behind what it was told, so that it never waits for the host: this returns when the
        step before is done, and the first and the last one when they are done themselves.

        Raises:
            ValueError: all steps are taken.
            OutOfDeviceMemory: the device cannot hold it.
        """
        execution = self._executions.get(sampling.bucket) or eager_execution(self.pipeline.denoiser)
        self._second_try(lambda: loop.step(self.predictor, sampling, execution))
        with shortage_named(self._device):
            if self._device.type == "cuda":
                told, self._told = self._told, torch.cuda.Event()
                self._told.record()
                (self._told if sampling.done else told or self._told).synchronize()

    def change(self, sampling: Sampling) -> float:
        """How much the input of the next step has changed; see `loop.change`."""
        return self._second_try(lambda: loop.change(self.predictor, sampling))

    def save(self, sampling: Sampling, file: Path) -> None:
        """Write a sampling between two steps, for `resume`; waits for the device.

        Raises:
            OSError: the file cannot be written.
        """
        snapshot.save(sampling, file, snapshot.identity(self._model))

    def resume(self, file: Path) -> Sampling:
        """Read a sampling that goes on to the bits that it would have had.

        Raises:
            SnapshotError: the file is none of `save`, or of another model.
            OSError: the file cannot be read.
        """
        self._told = None
        return snapshot.load(file, snapshot.identity(self._model), self._device)

    def work(self, sampling: Sampling) -> Work:
        """What its steps took so far."""
        behind = self._device.type == "cuda" and 1 < sampling.index < sampling.steps
        return replace(sampling.work, running_steps=int(behind))

    def fingerprint(self, sampling: Sampling) -> str:
        """SHA-256 of the latents' type, shape and bytes, hex; waits for the device."""
        return sampling.fingerprint()

    def decode(self, sampling: Sampling) -> Generator[NDArray[np.uint8], None, None]:
        """Yield frames in groups as the model decodes them: (n, height, width, 3) arrays on the host.

        The iterator may be left at any point, and other calls may come between its groups. Groups are empty while the
        VAE works through its tiles.

        Raises:
            OutOfDeviceMemory: the device cannot hold it.
            NonFinite: latents or frames are NaN or infinite; such frames are not yielded.
        """
        yield from self._second_try.frames(lambda: self._decode(sampling))

    def _decode(self, sampling: Sampling) -> Iterator[NDArray[np.uint8]]:
        # Once for all steps, which thus wait for nothing: a value that is no number is never one again.
        require_finite(sampling.latents, "the latents")
        for video in self.pipeline.decode(sampling.latents, self.placement.need):
            finite = video.isfinite().all()  # on the device, which the next line waits for anyway
            frames = to_uint8(video[0]).cpu().numpy()
            if not finite:
                require_finite(video, "the decoded values")
            yield frames

    def peak_bytes(self, reset: bool = False) -> int:
        """Highest device memory since the last reset; 0 on CPU."""
        return peak_bytes(self._device, reset)

    @property
    def device_uuids(self) -> tuple[str, ...]:
        """The driver's names of the devices in use; empty on the CPU."""
        return device_uuids(self._device)

    def lookups(self) -> Lookups:
        """What the caches of prompts and of compiled code gave since the process began."""
        compiled = cache.lookups()
        return Lookups(self._prompts.hits, self._prompts.misses, compiled.hits, compiled.misses)

    def probe(self) -> None:
        """Wait for the device.

        Raises:
            RuntimeError: it is broken for good. CUDA answers every call of a process alike once a kernel has touched
                memory that is not there.
        """
        synchronize(self._device)
