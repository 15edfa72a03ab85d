"""One model on one device: encode, denoise, decode.

It needs no server, protobuf or environment:

>>> import torch
>>> from easyanim_server.engine import cache, checkpoint
>>> from easyanim_server.engine.engine import Engine
>>> from easyanim_server.job import Bucket, Job
>>> engine = Engine(checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.float32))
>>> sampling = engine.begin(Job("1", "a cat", "ugly", Bucket.parse("32x48x5"), steps=2, guidance=6.0, seed=1))
>>> while not sampling.done:
...     engine.step(sampling)
>>> [frames.shape for frames in engine.decode(sampling)]
[(1, 32, 48, 3), (4, 32, 48, 3)]
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from easyanim_server.engine import cache, checkpoint
from easyanim_server.engine.block import AttentionMode
from easyanim_server.engine.devices import device_name, resolve_device, resolve_dtype
from easyanim_server.engine.modules import Modules
from easyanim_server.engine.plans import Planner
from easyanim_server.engine.sampler import Sampler, Sampling
from easyanim_server.engine.text import PromptEncoder, prompt_tokenizer
from easyanim_server.engine.transformer import Denoiser
from easyanim_server.engine.vae import VideoAutoencoder, to_uint8
from easyanim_server.errors import OutOfDeviceMemory
from easyanim_server.job import Bucket, Job, Lookups, ModelInfo, Observer, Phase, Picture, PromptTokenizer, Readiness
from easyanim_server.settings import Settings

log = logging.getLogger(__name__)


def unobserved(phase: Phase, completed: int, total: int) -> None:
    """Observe nothing."""


class Engine:
    """Implements `job.Engine`. Several samplings may be under way; calls come from one thread at a time.

    A call that fails or is left through its observer leaves no trace: the next one gives what a fresh engine would.

    Args:
        modules: The model.
        attention_mode: `original` runs the network as it was trained.
        noise_augmentation: Standard deviation of the noise on given pictures, whose range is [-1, 1].
        backend: How prepared buckets run: `eager`, `inductor` or `auto`.
        precision: Of the large products of prepared buckets: `bf16` (as loaded) or `fp8`.
        attention: The kernel of prepared buckets; `auto` measures.
    """

    def __init__(
        self,
        modules: Modules,
        attention_mode: AttentionMode = "original",
        noise_augmentation: float = 0.0563,
        *,
        backend: str = "eager",
        precision: str = "bf16",
        attention: str = "torch",
    ) -> None:
        self._device = modules.device
        self._prompts = PromptEncoder(modules)
        self._vae = VideoAutoencoder(modules.vae)
        denoiser = Denoiser(modules.transformer, attention_mode)
        self._sampler = Sampler(modules, denoiser, self._vae, noise_augmentation)
        self._tokenizer = prompt_tokenizer(modules)
        self._planner = Planner(denoiser, backend, precision, attention)
        self._readiness: dict[Bucket, Readiness] = {}
        self._told: torch.cuda.Event | None = None
        self._model = ModelInfo(
            name=modules.name,
            fingerprint=modules.fingerprint(),
            parameters=sum(parameter.numel() for parameter in modules.transformer.parameters()),
            attention_mode=attention_mode,
            dtype=str(modules.dtype).removeprefix("torch."),
            device=device_name(modules.device),
            versions={name: version(name) for name in ("easyanim", "torch", "diffusers", "transformers")},
        )

    @classmethod
    def load(cls, settings: Settings) -> Engine:
        """Load the model that `settings` name, onto the device that they name.

        Raises:
            ConfigurationError: there is no such device.
            UnsupportedModel: this engine cannot run the model.
        """
        device = resolve_device(settings.device)
        dtype = resolve_dtype(settings.dtype, device)
        if settings.backend != "eager":
            cache.use(settings.cache_dir, device)
        if settings.cpu_threads:
            torch.set_num_threads(settings.cpu_threads)
        modules = checkpoint.load(settings.model, device=device, dtype=dtype, revision=settings.revision)
        return cls(
            modules,
            settings.attention_mode,
            settings.noise_augmentation,
            backend=settings.backend,
            precision=settings.precision,
            attention=settings.attention,
        )

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""
        return self._tokenizer

    def prepare(
        self, buckets: Sequence[Bucket], report: Callable[[str], None] = lambda detail: None
    ) -> tuple[Readiness, ...]:
        """Make buckets ready: build and check how their steps run, then run each shape once.

        The VAE works on one frame and then on four at a time, however long the video is, so five frames show it all.

        Args:
            buckets: What will be asked for. Others still work, eagerly.
            report: Told what is being done, in one sentence.

        Raises:
            ConfigurationError: they cannot be served as this engine was configured.
        """
        plans = self._planner.prepare(buckets, report)
        self._sampler.paths = {bucket: path for bucket, (path, _) in plans.items()}
        self._readiness = {bucket: readiness for bucket, (_, readiness) in plans.items()}
        report("running every shape once")
        for bucket in self._readiness:
            self.step(self.begin(Job("warm", "", "", bucket, steps=1, guidance=2.0, seed=0)))
        for size in {(bucket.height, bucket.width): bucket for bucket in self._readiness}.values():
            black = Picture(size.width, size.height, bytes(3 * size.width * size.height))
            short = replace(size, frames=min(size.frames, 5))
            for _ in self.decode(self.begin(Job("warm", "", "", short, steps=1, guidance=1.0, seed=0, start=black))):
                pass
        found = cache.lookups()
        log.info("compiled code: %d graphs found in the cache, %d made", found.hits, found.misses)
        return tuple(self._readiness[bucket] for bucket in dict.fromkeys(buckets))

    def readiness(self, bucket: Bucket) -> Readiness:
        """How a bucket is served; one that was not prepared runs eagerly."""
        return self._readiness.get(bucket, Readiness(bucket, "eager", self._model.dtype, "torch"))

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
        """
        prompts = [job.prompt, job.negative_prompt] if job.guidance > 1 else [job.prompt]
        with _shortage_named(self._device):
            texts = []
            observe(Phase.TEXT_ENCODE, 0, len(prompts))
            for prompt in prompts:
                texts.append(self._prompts(prompt))
                observe(Phase.TEXT_ENCODE, len(texts), len(prompts))
            text, negative_text = texts if len(texts) == 2 else (texts[0], None)
            return self._sampler.begin(job, text, negative_text, observe)

    def step(self, sampling: Sampling) -> None:
        """Take one denoising step in place; where it fails, `sampling` is as it was.

        A device works one step behind what it was told, so that it never waits for the host: this returns when the
        step before is done, and the last one when it is done itself.

        Raises:
            ValueError: all steps are taken.
            OutOfDeviceMemory: the device cannot hold it.
        """
        with _shortage_named(self._device):
            self._sampler.step(sampling)
            if self._device.type == "cuda":
                told, self._told = self._told, torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._told.record()
                (self._told if sampling.done else told or self._told).synchronize()

    def decode(self, sampling: Sampling) -> Generator[NDArray[np.uint8], None, None]:
        """Yield frames in groups of 1, 4, 4, ...: (n, height, width, 3) arrays on the host.

        The iterator may be left at any point, and other calls may come between its groups.

        Raises:
            OutOfDeviceMemory: the device cannot hold it.
        """
        with _shortage_named(self._device):
            for video in self._vae.decode(sampling.latents):
                yield to_uint8(video[0]).cpu().numpy()

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


@contextmanager
def _shortage_named(device: torch.device) -> Iterator[None]:
    """Give back what a failed call holds of the device's memory, and raise its shortage by our name."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # the traceback keeps their tensors alive
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfDeviceMemory(f"{device_name(device)} has too little free memory for this generation") from error
