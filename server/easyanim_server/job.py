"""The nouns that all floors share: jobs, pictures, buckets, events, and the two protocols.

Pure Python; nothing here knows gRPC, torch or processes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from easyanim_server.errors import WorkerLost
from easyanim_server.profiles import DEFAULT_PROFILE, NO_ACCELERATION, PROFILES, Acceleration
from easyanim_server.promptlint import PromptWarning

DEFAULT_STEPS = PROFILES[DEFAULT_PROFILE].steps
DEFAULT_GUIDANCE = 6.0
DEFAULT_FPS = 8
MAX_STEPS = 200
GUIDANCE_RANGE = (1.0, 20.0)
FPS_RANGE = (1, 60)
MAX_SEED = 2**63 - 1
MAX_FRAMES = 49
"""Longest clip that the model was trained on."""
SIZE_MULTIPLE = 16
"""Heights and widths are multiples of it: the VAE's factor 8 times the patch size 2."""
CHUNK_BYTES = 256 * 1024
"""Largest part of a file in one event."""


class Phase(Enum):
    """What a worker is doing; values are the contract's enum names less their prefix."""

    TEXT_ENCODE = "TEXT_ENCODE"
    IMAGE_ENCODE = "IMAGE_ENCODE"
    DENOISE = "DENOISE"
    DECODE = "DECODE"


class FitPolicy(Enum):
    """How a picture of another aspect becomes the bucket's."""

    CROP = "CROP"
    PAD = "PAD"
    STRETCH = "STRETCH"


class OutputFormat(Enum):
    """File formats by media type."""

    MP4 = "video/mp4"
    WEBM = "video/webm"
    MKV = "video/x-matroska"


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One shape that the engine serves; compiled and warmed as a whole."""

    height: int
    """Pixels, a multiple of 16."""
    width: int
    """Pixels, a multiple of 16."""
    frames: int
    """Frames of the video, of the form 4k+1, in [1, 49]."""

    @property
    def name(self) -> str:
        """Height by width, as requests name it: ``384x672``."""
        return f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.frames}"

    @property
    def log_aspect(self) -> float:
        """Natural logarithm of width over height; 0 is square."""
        return math.log(self.width / self.height)

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """Read ``HxW`` or ``HxWxF``; frames default to 49.

        Raises:
            ValueError: the text has another form, or a number is not allowed.
        """
        parts = text.lower().strip().split("x")
        if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"bucket {text!r} must look like 384x672 or 384x672x49 (height x width x frames)")
        height, width, frames = (int(part) for part in [*parts, str(MAX_FRAMES)][:3])
        for name, pixels in (("height", height), ("width", width)):
            if pixels <= 0 or pixels % SIZE_MULTIPLE:
                raise ValueError(f"bucket {text!r}: {name} {pixels} must be a positive multiple of {SIZE_MULTIPLE}")
        if not is_frame_count(frames):
            raise ValueError(f"bucket {text!r}: {frames} frames; must be 4k+1, from 1 to {MAX_FRAMES}")
        return cls(height, width, frames)


def is_frame_count(frames: int) -> bool:
    """Whether the VAE can decode so many frames: one alone, then groups of four."""
    return 1 <= frames <= MAX_FRAMES and frames % 4 == 1


def nearest_bucket(buckets: Iterable[Bucket], aspect: float) -> Bucket:
    """The bucket whose aspect is nearest to `aspect` (width over height) by logarithm.

    Of equally near ones the first stands, so the order of the configuration is the order of preference.
    """
    target = math.log(aspect)
    return min(buckets, key=lambda bucket: round(abs(bucket.log_aspect - target), 9))


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, already in the bucket's size."""

    width: int
    height: int
    rgb: bytes
    """Rows from the top, 3 bytes a pixel: ``height * width * 3`` bytes."""
    source_sha256: str = ""
    """SHA-256 of the file that it was made from, hex; empty where there was none."""


@dataclass(frozen=True, slots=True)
class Job:
    """One generation with every default resolved. Travels to the worker process."""

    id: str
    prompt: str
    negative_prompt: str
    bucket: Bucket
    steps: int
    guidance: float
    seed: int
    fps: int = DEFAULT_FPS
    output: OutputFormat = OutputFormat.MP4
    start: Picture | None = None
    end: Picture | None = None
    fit: FitPolicy = FitPolicy.CROP
    embed_prompt: bool = False
    """Whether the prompts go into the file's metadata."""
    profile: str = DEFAULT_PROFILE
    """The name that `steps` and `acceleration` were resolved from; the two alone say what is done."""
    acceleration: Acceleration = NO_ACCELERATION
    log_context: dict[str, str] = field(default_factory=dict, compare=False)
    """What every log line on this job carries: `request_id`, and `trace_id` where the caller traces."""
    traceparent: str = field(default="", compare=False)
    """W3C trace context of the call; the spans of this job are its children. Empty where nothing is traced."""

    @property
    def predictions(self) -> int:
        """Passes of the transformer that the steps take where none is reused: two with guidance, else one."""
        guided = sum(self.acceleration.guides(step, self.steps) for step in range(self.steps))
        return self.steps + (guided if self.guidance > 1 else 0)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job has a place in the queue."""

    job: Job
    prompt_tokens: int
    prompt_truncated: bool
    warnings: tuple[PromptWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits; `ahead` counts waiting and running jobs, `eta` is in seconds."""

    ahead: int
    eta: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """A phase advanced. Times in seconds."""

    phase: Phase
    completed: int
    total: int
    unit_seconds: float | None
    elapsed: float
    eta: float | None
    reused_steps: int = 0
    """Denoising steps so far that reused a prediction."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the steps of a generation took so far."""

    predictions: int = 0
    """Passes through the transformer's blocks; those of two prompts at once count as two."""
    reused_steps: int = 0
    """Steps that reused what the blocks did in an earlier one."""
    cache_coefficients: tuple[float, ...] = ()
    """Of the polynomial that reuse was decided with, highest power first; empty where it was off."""


NO_WORK = Work()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the file, at most `CHUNK_BYTES`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Readiness:
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
    """Why another backend than the configured one is used; empty where it is not."""
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
class Encoding:
    """The video encoder's share of `Phase.DECODE`, in seconds."""

    began: float = 0.0
    """When it got its first frames, since the start of work."""
    busy: float = 0.0
    """How long it worked."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The file is complete."""

    size: int
    sha256: bytes
    seconds: dict[Phase, float]
    """Seconds of each phase, measured in the worker."""
    total_seconds: float
    peak_device_bytes: int
    model: ModelInfo
    readiness: Readiness
    queue_seconds: float = 0.0
    latents_sha256: str = ""
    """See `Engine.fingerprint`."""
    encoding: Encoding = Encoding()
    work: Work = NO_WORK
    lookups: Lookups = Lookups()


@dataclass(frozen=True, slots=True)
class Restarted:
    """The job begins anew, bytes included, since its worker was lost."""

    attempt: int
    """The run that begins now: 2 after the first loss."""
    reason: str
    """Of the error that ended the run before, see `EasyAnimError.reason`."""
    detail: str
    """What that error says."""


Event = Accepted | Queued | Progress | Chunk | Restarted | Completed


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
class Served:
    """What a worker that is up brings along."""

    model: ModelInfo
    tokenizer: PromptTokenizer
    buckets: tuple[Readiness, ...] = ()
    device_uuids: tuple[str, ...] = ()
    """The driver's names of the devices that it holds, such as ``GPU-8f5a...``; empty on the CPU."""
    lookups: Lookups = Lookups()


Observer = Callable[[Phase, int, int], None]
"""Called by the engine between units of work with (phase, completed, total).

It may raise to leave the engine, which then is as good as new.
"""


class Engine(Protocol):
    """One model on one device. Used by one thread at a time."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""

    def prepare(self, buckets: Sequence[Bucket], report: Callable[[str], None]) -> tuple[Readiness, ...]:
        """Make every bucket ready, so that no request pays for a first time; `report` takes a sentence a stage."""

    def readiness(self, bucket: Bucket) -> Readiness:
        """How a bucket is served; known once it was prepared."""

    def begin(self, job: Job, observe: Observer) -> Any:
        """Encode text and pictures and draw the noise; returns a sampling at step 0."""

    def step(self, sampling: Any) -> None:
        """Take one denoising step in place."""

    def work(self, sampling: Any) -> Work:
        """What its steps took so far."""

    def fingerprint(self, sampling: Any) -> str:
        """SHA-256 of the latents' type, shape and bytes, hex."""

    def decode(self, sampling: Any) -> Generator[Any, None, None]:
        """Yield frames in groups of 1, 4, 4, ...: (n, height, width, 3) uint8 arrays on the host."""

    def peak_bytes(self, reset: bool = False) -> int:
        """Highest device memory since the last reset; 0 on CPU."""

    @property
    def device_uuids(self) -> tuple[str, ...]:
        """The driver's names of the devices in use; empty on the CPU."""

    def lookups(self) -> Lookups:
        """What caches gave since the process began."""

    def probe(self) -> None:
        """Wait for the device; raises where it is broken for as long as this process lives."""


class Worker(Protocol):
    """A place where jobs run, one at a time, seen from the front's event loop."""

    async def start(self, report: Callable[[str], None]) -> Served:
        """Bring the worker up; returns when it is warm. `report` takes a sentence for each stage.

        Raises:
            EasyAnimError: it will never come up with these settings.
            WorkerLost: the process died or took too long; another try may succeed.
        """

    def run(self, job: Job) -> AsyncIterator[Progress | Chunk | Completed]:
        """Run one job to its end.

        Raises:
            EasyAnimError: why there is no video; `JobCancelled` after `cancel`.
        """

    def cancel(self, job: Job) -> None:
        """Ask the worker to leave this job; `run` ends as soon as it has. Never waits."""

    def kill(self) -> None:
        """End a worker that no longer obeys, so that `run` raises `WorkerLost`. Never waits."""

    @property
    def up(self) -> bool:
        """Whether the worker is there, as far as is known."""

    async def lost(self) -> WorkerLost:
        """Wait until the worker is not there any more; returns how it ended."""

    async def stop(self) -> None:
        """End the worker and everything it holds, at once."""
