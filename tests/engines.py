"""Engines for worker processes under test: one that is simulated, and the real one with faults on demand."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from easyanim_server.catalog import expected
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.domain.events import Phase, Work
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, Lookups, ModelInfo, PromptTokenizer
from easyanim_server.domain.protocols import Observer

SIMULATED = "tests.engines:SimulatedEngine.load"
FAULTY = "tests.engines:FaultyEngine.load"
CARD = "tests.engines:SimulatedCardEngine.load"

UNIT_SECONDS = 0.02


@dataclass
class SimulatedSampling:
    job: Job
    step: int = 0


class SimulatedEngine:
    """No network: sleeps for every unit of work and draws noise from the seed.

    Prompts give orders: ``slow`` sleeps ten times as long, ``very slow in PHASE`` a hundred times there, ``fail in
    PHASE`` raises there, ``misconfigured in PHASE`` raises what a missing codec does, ``die in PHASE`` ends the process
    there as a crash of the driver would, ``hang in PHASE`` never comes back from there, and after ``break in PHASE``
    all work fails. While a file stands where `cache_dir` should be, loading is refused; ``simulated:waits`` loads once
    there is a folder.
    """

    def __init__(self, name: str) -> None:
        self.model = ModelInfo(name, "0" * 64, 0, "original", "float32", "simulated")
        self.tokenizer = PromptTokenizer(word_tokenizer(), "", "", max_tokens=256)
        self.capabilities = expected(name)
        self.device_uuids: tuple[str, ...] = ()
        self.prompts_seen: list[str] = []
        self.broken = False

    @classmethod
    def load(cls, settings: Settings) -> SimulatedEngine:
        if settings.model == "simulated:unsupported":
            raise UnsupportedModel("simulated:unsupported is never supported; use simulated:fine")
        if settings.model == "simulated:dies":
            os._exit(9)
        while settings.model == "simulated:waits" and not (settings.cache_dir and settings.cache_dir.is_dir()):
            time.sleep(0.01)
        if settings.cache_dir is not None and settings.cache_dir.is_file():
            raise ConfigurationError(f"cache_dir {str(settings.cache_dir)!r} cannot be written")
        return cls(settings.model)

    def prepare(self, buckets: Sequence[Bucket], report: Callable[[str], None]) -> tuple[BucketStatus, ...]:
        return tuple(map(self.readiness, buckets))

    def readiness(self, bucket: Bucket) -> BucketStatus:
        return BucketStatus(bucket, "simulated", "float32", "none", prediction_seconds=10 * UNIT_SECONDS)

    def begin(self, job: Job, observe: Observer) -> SimulatedSampling:
        self.prompts_seen += [job.prompt, job.negative_prompt]
        phases = {Phase.TEXT_ENCODE: 2}
        if job.start is not None:
            phases[Phase.IMAGE_ENCODE] = 4
        for phase, total in phases.items():
            for unit in range(total):
                observe(phase, unit, total)
                self._work(job, phase)
            observe(phase, total, total)
        return SimulatedSampling(job)

    def step(self, sampling: SimulatedSampling) -> None:
        self._work(sampling.job, Phase.DENOISE)
        sampling.step += 1

    def work(self, sampling: SimulatedSampling) -> Work:
        return Work(predictions=sampling.step)

    def fingerprint(self, sampling: SimulatedSampling) -> str:
        job = sampling.job
        return hashlib.sha256(f"{job.seed} {job.bucket} {job.steps} {job.prompt}".encode()).hexdigest()

    def decode(self, sampling: SimulatedSampling) -> Generator[Any, None, None]:
        bucket = sampling.job.bucket
        noise = np.random.default_rng(sampling.job.seed)
        for count in [1] + [4] * (bucket.frames // 4):
            self._work(sampling.job, Phase.DECODE)
            yield noise.integers(0, 255, (count, bucket.height, bucket.width, 3), dtype=np.uint8)

    def peak_bytes(self, reset: bool = False) -> int:
        return 0

    def lookups(self) -> Lookups:
        misses = len(set(self.prompts_seen))
        return Lookups(text_hits=len(self.prompts_seen) - misses, text_misses=misses, compile_misses=1)

    def probe(self) -> None:
        if self.broken:
            raise RuntimeError("the simulated device is broken")

    def _work(self, job: Job, phase: Phase) -> None:
        self.broken |= f"break in {phase.value}" in job.prompt
        self.probe()
        if f"fail in {phase.value}" in job.prompt:
            raise RuntimeError("a fault that was asked for")
        if f"misconfigured in {phase.value}" in job.prompt:
            raise ConfigurationError("video/webm needs the encoder libvpx-vp9")
        if f"die in {phase.value}" in job.prompt:
            os._exit(9)
        while f"hang in {phase.value}" in job.prompt:
            time.sleep(1)
        if "instant" not in job.prompt:
            very_slow = f"very slow in {phase.value}" in job.prompt
            time.sleep(UNIT_SECONDS * (100 if very_slow else 10 if "slow" in job.prompt else 1))


def word_tokenizer() -> str:
    """A serialised tokenizer with one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(tokenizer.to_str())


class SimulatedCardEngine(SimulatedEngine):
    """Claims to have a card, and says what device it was asked for."""

    @classmethod
    def load(cls, settings: Settings) -> SimulatedCardEngine:
        engine = cls(settings.model)
        engine.model = replace(engine.model, device=settings.device)
        engine.device_uuids = ("GPU-simulated",)
        return engine


class FaultyEngine:
    """The real engine; ``break MODULE at call N`` in a prompt raises inside that module's Nth forward of the job.

    MODULE is ``encoder`` or ``decoder`` of the VAE, or ``transformer``.
    """

    @staticmethod
    def load(settings: Settings) -> Any:
        from easyanim_server.engine.cache import store as cache
        from easyanim_server.engine.devices import resolve_device, resolve_dtype
        from easyanim_server.engine.engine import Engine, unobserved
        from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
        from easyanim_server.engine.weights import checkpoint

        device = resolve_device(settings.device)
        cache.use(settings.cache_dir, device)
        modules = checkpoint.load(settings.model, device=device, dtype=resolve_dtype(settings.dtype, device))
        breakable = {
            # The last layers: the causal convolutions before them then hold features of the broken call.
            "encoder": modules.vae.encoder.conv_out,
            "decoder": modules.vae.decoder.conv_out,
            "transformer": modules.transformer.proj_out,
        }
        hooks: list[Any] = []

        class Faulty(Engine):
            def begin(self, job: Job, observe: Observer = unobserved) -> Any:
                while hooks:
                    hooks.pop().remove()
                if order := re.search(r"break (\w+) at call (\d+)", job.prompt):
                    hooks.append(_break(breakable[order[1]], int(order[2])))
                return super().begin(job, observe)

        pipeline = EasyAnimatePipeline(
            modules, settings.attention_mode, settings.noise_augmentation, tiled=lambda height, width: False
        )
        return Faulty(pipeline)


def _break(module: Any, call: int) -> Any:
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("a fault that was asked for")

    return module.register_forward_pre_hook(hook)


class GivenNoiseEngine:
    """The real engine, which starts from the noise of a case in tests/fixtures instead of a seed's.

    The case is named by the seed: the place of its folder among those of ``CASES``.
    """

    CASES = ("v5-inp-i2v", "v5-inp-i2v-end", "v5-t2v", "v51-t2v")

    @staticmethod
    def load(settings: Settings) -> Any:
        from pathlib import Path

        from safetensors.torch import load_file

        from easyanim_server.engine.engine import Engine

        engine = Engine.from_settings(settings)
        fixtures = Path(__file__).parent / "fixtures" / "upstream"

        drawn = engine.pipeline.draw

        def draw(job: Job) -> Any:
            if job.id == "warm":
                return drawn(job)
            stored = load_file(fixtures / GivenNoiseEngine.CASES[job.seed] / "expected.safetensors")
            noise = {"latents": stored["noise.latents"].float()}
            if "noise.picture" in stored:
                noise["pictures"] = stored["noise.picture"][0].float()
            return noise

        engine.pipeline.draw = draw  # type: ignore[method-assign]
        return engine
