"""One model on one device: encode, denoise, decode.

It needs no server, protobuf or environment:

>>> import torch
>>> from easyanim_server.engine.cache import store as cache
>>> from easyanim_server.engine.weights import checkpoint
>>> from easyanim_server.engine.engine import Engine
>>> from easyanim_server.domain.job import Bucket, Job
>>> engine = Engine(checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.float32))
>>> sampling = engine.begin(Job("1", "a cat", "ugly", Bucket.parse("32x48x5"), steps=2, guidance=6.0, seed=1))
>>> while not sampling.done:
...     engine.step(sampling)
>>> [frames.shape for frames in engine.decode(sampling)]
[(1, 32, 48, 3), (4, 32, 48, 3)]
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, NonFinite, OutOfDeviceMemory
from easyanim_server.domain.events import Phase, Work
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.model import BucketStatus, Capabilities, Lookups, ModelInfo, PromptTokenizer
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.domain.protocols import Observer
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.compile.planner import DAMAGED, Planner
from easyanim_server.engine.compile.precision import resolve_precision
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.devices import device_name, limit_memory
from easyanim_server.engine.families.base import ModelFamily
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.text import PromptEncoder, prompt_tokenizer
from easyanim_server.engine.families.easyanimate_v51.transformer import Denoiser
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder, to_uint8
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import is_cut
from easyanim_server.engine.families.registry import FAMILIES, recognise
from easyanim_server.engine.finite import require_finite
from easyanim_server.engine.memory.choose import PlacementChoice, find_placement
from easyanim_server.engine.memory.estimate import TILES_SHARE
from easyanim_server.engine.memory.oom_retry import OomRetry, shortage_named
from easyanim_server.engine.memory.placement import Placement
from easyanim_server.engine.sampling import Sampler, Sampling
from easyanim_server.engine.step_cache.teacache import resolve_coefficients
from easyanim_server.engine.weights import checkpoint

log = logging.getLogger(__name__)


def unobserved(phase: Phase, completed: int, total: int) -> None:
    """Observe nothing."""


def require_shapes(buckets: Sequence[Bucket], geometry: Geometry) -> None:
    """Refuse buckets that a model does not make.

    Raises:
        ConfigurationError: names the first, and what is allowed.
    """
    for bucket in buckets:
        if wrong := geometry.refusal(bucket):
            raise ConfigurationError(f"bucket {str(bucket)!r}: {wrong}")


class Engine:
    """Implements `protocols.Engine`. Several samplings may be under way; calls come from one thread at a time.

    A call that fails or is left through its observer leaves no trace: the next one gives what a fresh engine would.

    Args:
        modules: The model.
        attention_mode: `original` runs the network as it was trained.
        noise_augmentation: Standard deviation of the noise on given pictures, whose range is [-1, 1]; None for what the
            model was trained with.
        backend: How prepared buckets run: `eager`, `inductor`, `tensorrt` or `auto`.
        precision: Of the large products of prepared buckets: `bf16` (as loaded), `fp8` or `fp8-weights`.
        attention: The kernel of prepared buckets; `auto` measures.
        guidance_batch: How many predictions of guidance prepared buckets make at once; `auto` measures.
        placement: Where the weights are; see `Placement`.
        choice: Why they are there, and what buckets were predicted to take.
        locked_limit: Most bytes of host memory to lock into place for copies to the device.
        tiling: Of the VAE: `on`, `off`, or `auto` for where `choice` says that it is needed.
        slicing: Whether the VAE takes videos of a batch one by one.
        cache_coefficients: A file of `cachefit.Fit`; by default the published numbers of the model's shape.
    """

    def __init__(
        self,
        modules: Components,
        attention_mode: AttentionMode = "original",
        noise_augmentation: float | None = None,
        *,
        backend: str = "eager",
        precision: str = "bf16",
        attention: str = "torch",
        guidance_batch: Literal["auto", "1", "2"] = "1",
        placement: str = "full",
        choice: PlacementChoice | None = None,
        locked_limit: int = 0,
        tiling: str = "auto",
        slicing: bool = False,
        cache_coefficients: Path | None = None,
    ) -> None:
        self._device = modules.device
        self._itemsize = modules.dtype.itemsize
        self._capabilities = modules.capabilities
        self._geometry = modules.geometry
        self._prompts = PromptEncoder(modules, ready=lambda: self.placement.need("text"))
        self._vae = VideoAutoencoder(
            modules.vae,
            device=self._device,
            ready=lambda: self.placement.need("vae"),
            exact=attention_mode == "diffusers",  # which is there to be compared with
        )
        self._vae.sliced = slicing
        self._vae.tiled = lambda height, width: (
            is_cut(height, width)
            and (tiling == "on" or (tiling == "auto" and choice is not None and choice.tiles(height, width)))
        )
        self._choice = choice
        denoiser = Denoiser(modules.transformer, attention_mode)
        denoiser.ready = lambda: self.placement.need("transformer")
        if noise_augmentation is None:
            noise_augmentation = self._capabilities.defaults.noise_augmentation
        self._sampler = Sampler(modules, denoiser, self._vae, noise_augmentation)
        self._tokenizer = prompt_tokenizer(modules)
        self.placement = Placement(WeightPlacement(placement), modules, denoiser, locked_limit)
        """Where the weights are."""
        self._second_try = OomRetry(self.placement, modules.device)
        self._planner = Planner(
            denoiser, modules.geometry, backend, precision, attention, guidance_batch, self.placement
        )
        self._readiness: dict[Bucket, BucketStatus] = {}
        self._told: torch.cuda.Event | None = None
        """After the last step that the device was told."""
        self._model = ModelInfo(
            name=modules.name,
            fingerprint=modules.fingerprint(),
            parameters=sum(parameter.numel() for parameter in modules.transformer.parameters()),
            attention_mode=attention_mode,
            dtype=str(modules.dtype).removeprefix("torch."),
            device=device_name(modules.device),
            versions={name: version(name) for name in ("easyanim", "torch", "diffusers", "transformers")},
            placement=placement,
            placement_reason=choice.reason if choice else "",
        )
        config = modules.transformer.config
        self._sampler.cache_coefficients = resolve_coefficients(
            cache_coefficients, (config.num_layers, config.mmdit_layers), self._model.fingerprint
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
    def load(cls, config: EngineConfig, families: Sequence[ModelFamily] = FAMILIES) -> Engine:
        """Find a model, decide where its weights go, and load it.

        Args:
            config: The model, the device and how to run.
            families: Those that the model may be of.

        Raises:
            ConfigurationError: the model does not make a bucket, or there is not enough memory for one.
            UnsupportedModel: this engine cannot run the model.
        """
        limit_memory(config.device, config.vram_limit_gib)
        index = checkpoint.find(config.model, config.revision)
        family = recognise(index, families)
        require_shapes(config.buckets, family.capabilities(index).geometry)
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
        modules = family.load(index, device=config.device, dtype=config.dtype, on_host=choice.placement.starts_on_host)
        return cls(
            modules,
            config.attention_mode,
            config.noise_augmentation,
            backend=config.backend.value,
            precision=precision,
            attention=config.attention,
            guidance_batch=config.guidance_batch,
            placement=choice.placement.value,
            choice=choice,
            locked_limit=config.locked_limit,
            tiling=config.vae_tiling.value,
            slicing=config.vae_slicing,
            cache_coefficients=config.cache_coefficients,
        )

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What the model can be asked for."""
        return self._capabilities

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""
        return self._tokenizer

    def prepare(
        self, buckets: Sequence[Bucket], report: Callable[[str], None] = lambda detail: None
    ) -> tuple[BucketStatus, ...]:
        """Make buckets ready: build and check how their steps run, then run each shape once.

        The VAE works on the first latent frame and then on one after another, however long the video is, so two of
        them show it all.

        Args:
            buckets: What will be asked for. Others still work, eagerly.
            report: Told what is being done, in one sentence.

        Raises:
            ConfigurationError: they cannot be served as this engine was configured, or the model gives no finite
                numbers.
        """
        plans = self._planner.prepare(buckets, report)
        self._sampler.paths = {bucket: path for bucket, (path, _) in plans.items()}
        self._readiness = {bucket: readiness for bucket, (_, readiness) in plans.items()}
        report("running every shape once")
        self._second_try.granted = False  # a bucket that does not fit must not look as if it did
        vae_peaks: dict[tuple[int, int], int] = {}
        for bucket in self._readiness:
            size = (bucket.height, bucket.width)
            try:
                seconds, peak = self._warm(bucket)
                if size not in vae_peaks:
                    vae_peaks[size] = self._warm_vae(bucket)
            except OutOfDeviceMemory as error:
                raise ConfigurationError(f"bucket {bucket} ran out of memory when it was warmed: {error}") from error
            except NonFinite as error:
                raise ConfigurationError(f"bucket {bucket} cannot be served: {error}; {DAMAGED}") from error
            predicted = self._choice and self._choice.of(bucket)
            self._readiness[bucket] = replace(
                self._readiness[bucket],
                prediction_seconds=seconds,
                vae_tiled=self._vae.tiled(*size),
                predicted_bytes=predicted.peak if predicted else 0,
                peak_bytes=max(peak, vae_peaks[size]),
            )
        self._second_try.granted = True
        found = cache.lookups()
        log.info("compiled code: %d graphs found in the cache, %d made", found.hits, found.misses)
        served = tuple(self.readiness(bucket) for bucket in dict.fromkeys(buckets))
        cache.remember(self._model.name, [readiness.facts() for readiness in served])
        return served

    def _warm(self, bucket: Bucket) -> tuple[float, int]:
        """Take a guided step; returns the seconds of a prediction, and the most device memory in bytes."""
        self.peak_bytes(reset=True)
        sampling = self.begin(Job("warm", "", "", bucket, steps=1, guidance=2.0, seed=0))
        began = time.perf_counter()
        self.step(sampling)
        seconds = (time.perf_counter() - began) / sampling.predictions
        require_finite(sampling.latents, "the latents after a step")
        return seconds, self.peak_bytes()

    def _warm_vae(self, bucket: Bucket) -> int:
        """Encode and decode the first frames; returns the most device memory that all of them would take, in bytes."""
        black = Picture(bucket.width, bucket.height, bytes(3 * bucket.width * bucket.height))
        short = replace(bucket, frames=min(bucket.frames, self._geometry.frames_of(2)))
        self.peak_bytes(reset=True)
        for _ in self.decode(self.begin(Job("warm", "", "", short, steps=1, guidance=1.0, seed=0, start=black))):
            pass
        peak = self.peak_bytes()
        more = 3 * (bucket.frames - short.frames) * bucket.height * bucket.width * self._itemsize
        return peak and peak + int(TILES_SHARE * more)

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
            if completed == total and self._device.type == "cuda":  # else its time would be the next phase's
                torch.cuda.synchronize(self._device)
            observe(phase, completed, total)

        prompts = [job.prompt, job.negative_prompt] if job.guidance > 1 else [job.prompt]
        self.placement.restore()
        self._told = None
        texts = []
        finished(Phase.TEXT_ENCODE, 0, len(prompts))
        for prompt in prompts:
            texts.append(self._second_try(lambda prompt=prompt: self._prompts(prompt)))  # type: ignore[misc]
            finished(Phase.TEXT_ENCODE, len(texts), len(prompts))
        text, negative_text = texts if len(texts) == 2 else (texts[0], None)
        sampling = self._second_try(lambda: self._sampler.begin(job, text, negative_text, finished))
        if job.start is not None:
            require_finite(sampling.inpaint, "the pictures' latents")
        return sampling

    def step(self, sampling: Sampling) -> None:
        """Take one denoising step in place; where it fails, `sampling` is as it was.

        A device works one step behind what it was told, so that it never waits for the host: this returns when the
        step before is done, and the first and the last one when they are done themselves.

        Raises:
            ValueError: all steps are taken.
            OutOfDeviceMemory: the device cannot hold it.
        """
        self._second_try(lambda: self._sampler.step(sampling))
        with shortage_named(self._device):
            if self._device.type == "cuda":
                told, self._told = self._told, torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._told.record()
                (self._told if sampling.done else told or self._told).synchronize()

    def change(self, sampling: Sampling) -> float:
        """How much the input of the next step has changed; see `Sampler.change`."""
        return self._second_try(lambda: self._sampler.change(sampling))

    def work(self, sampling: Sampling) -> Work:
        """What its steps took so far."""
        behind = self._device.type == "cuda" and 1 < sampling.index < sampling.steps
        return replace(sampling.work, running_steps=int(behind))

    def fingerprint(self, sampling: Sampling) -> str:
        """SHA-256 of the latents' type, shape and bytes, hex; waits for the device."""
        return sampling.fingerprint()

    def decode(self, sampling: Sampling) -> Generator[NDArray[np.uint8], None, None]:
        """Yield frames in groups of 1, 4, 4, ...: (n, height, width, 3) arrays on the host.

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
        for video in self._vae.decode(sampling.latents):
            finite = video.isfinite().all()  # on the device, which the next line waits for anyway
            frames = to_uint8(video[0]).cpu().numpy()
            if not finite:
                require_finite(video, "the decoded values")
            yield frames

    def peak_bytes(self, reset: bool = False) -> int:
        """Highest device memory since the last reset; 0 on CPU."""
        if self._device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self._device)
        if reset:
            torch.cuda.reset_peak_memory_stats(self._device)
        return peak

    @property
    def device_uuids(self) -> tuple[str, ...]:
        """The driver's names of the devices in use; empty on the CPU."""
        return (f"GPU-{torch.cuda.get_device_properties(self._device).uuid}",) if self._device.type == "cuda" else ()

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
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
