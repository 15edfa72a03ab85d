"""What a worker serves, and how: the model, its tokenizer, how every bucket was made ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.job import GUIDANCE_RANGE, MAX_STEPS, Bucket
from easyanim_server.domain.profiles import PROFILES
from easyanim_server.domain.shape import Geometry


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """How a bucket is served, as measured when it was made ready."""

    bucket: Bucket
    backend: str
    """What runs the transformer's blocks: ``eager``, ``inductor`` or ``tensorrt``."""
    precision: str
    """Type of the large products: ``float32``, ``bf16``, ``fp8``, or ``fp8-weights``: stored in 8 bits, cast before."""
    attention: str
    """The attention kernel."""
    guidance_batch: int = 1
    """How many predictions are made at once where guidance needs two: 1 or 2."""
    build_seconds: float = 0.0
    """Building, checking and first run; with a warm cache mostly loading."""
    prediction_seconds: float = 0.0
    """One pass of the transformer; a guided step has two."""
    relative_l2: float = 0.0
    """Distance of one prediction from the eager network's."""
    cosine: float = 1.0
    """Cosine of the angle between one prediction and the eager network's."""
    rounding_l2: float = 0.0
    """Distance of the eager network's own prediction from float32's: the measure for `relative_l2`."""
    fallback: str = ""
    """What was configured and is not used, backend or batch, and why; empty where all is."""
    attention_milliseconds: dict[str, float] = field(default_factory=dict)
    """What each attention kernel took; empty where none was measured."""
    placement: str = "full"
    """Where weights are while they are not needed."""
    vae_tiled: bool = False
    """Whether the VAE works on tiles, which changes pixels."""
    predicted_bytes: int = 0
    """Most device memory of a generation, as it was predicted; 0 on the CPU."""
    peak_bytes: int = 0
    """Most device memory of a generation, as it was measured when the bucket was warmed; 0 on the CPU."""

    def facts(self) -> dict[str, Any]:
        """All fields, rounded, for logs."""
        values = {name: getattr(self, name) for name in self.__slots__}
        rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}
        return {**rounded, "bucket": str(self.bucket)}


@dataclass(frozen=True, slots=True)
class Lookups:
    """How often caches of the worker process had what was asked for, since it began."""

    text_hits: int = 0
    """Prompts whose embedding was remembered."""
    text_misses: int = 0
    compile_hits: int = 0
    """Graphs whose compiled code was found on disk."""
    compile_misses: int = 0


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """What the front needs to count a prompt's tokens without loading the model."""

    tokenizer_json: str
    """A serialised `tokenizers.Tokenizer`."""
    prefix: str
    """Chat template before the prompt."""
    suffix: str
    """Chat template after the prompt."""
    max_tokens: int
    """Tokens that the model reads; the rest is cut."""
    kept: int = 0
    """Tokens of the suffix that a cut keeps: it is made in front of them."""
    name: str = "qwen2-vl"
    """See `TokenizerSpec.name`."""
    others: tuple[PromptTokenizer, ...] = ()
    """Those that read the same prompt for other encoders, less of it than this one."""


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """One of the tokenizers that a model reads prompts with."""

    name: str
    max_tokens: int
    """Tokens that are read of a prompt, its chat template included; the rest is cut."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can be asked for. Front and clients go by it alone, whatever family the model is of."""

    family: str
    """The name of the `ModelFamily`, for logs."""
    tasks: frozenset[str]
    """Open set: ``text``, ``start``, ``start_end``, and what later families bring."""
    geometry: Geometry
    tokenizers: tuple[TokenizerSpec, ...]
    solvers: tuple[str, ...]
    """By the names that requests use; the first is what the model was published with."""
    defaults: ModelDefaults
    max_steps: int = MAX_STEPS
    guidance_range: tuple[float, float] = GUIDANCE_RANGE

    @property
    def profiles(self) -> tuple[str, ...]:
        """Names of the profiles whose solvers the model can be sampled with, the most faithful first."""
        offered = {name: self.defaults.profile(name).acceleration.solver.value for name in PROFILES}
        return tuple(name for name, solver in offered.items() if solver in self.solvers)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a worker serves, as it goes into receipts."""

    name: str
    fingerprint: str
    """SHA-256 over configuration and weight names, shapes and types; hex."""
    parameters: int
    """Parameters of the transformer."""
    attention_mode: str
    dtype: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    placement: str = "full"
    """Where weights are while they are not needed."""
    placement_reason: str = ""
    """Why there, in one sentence."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker that is up brings along."""

    model: ModelInfo
    tokenizer: PromptTokenizer
    buckets: tuple[BucketStatus, ...] = ()
    device_uuids: tuple[str, ...] = ()
    """The driver's names of the devices that it holds, such as ``GPU-8f5a...``; empty on the CPU."""
    lookups: Lookups = Lookups()
    capabilities: Capabilities = field(kw_only=True)
    """What the model can be asked for."""

    def step_seconds(self, bucket: Bucket) -> float:
        """What a guided step took when the bucket was made ready; 0 where that was not measured."""
        return next((2 * ready.prediction_seconds for ready in self.buckets if ready.bucket == bucket), 0.0)
