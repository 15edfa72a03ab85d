"""What a server says of itself, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from easyanim_client.results import Phase


class State(str, Enum):
    """Whether a server takes requests."""

    STARTING = "starting"
    """The model is being loaded and warmed: requests are refused before the first time is over, and wait later."""
    SERVING = "serving"
    """Ready."""
    DRAINING = "draining"
    """Shutting down; requests are refused."""
    UNKNOWN = "unknown"
    """A state that a newer server has and this client does not know."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that a server serves."""

    name: str
    """Set from the start; the other fields once the model is loaded."""
    fingerprint: str
    """See `Receipt.model_fingerprint`."""
    transformer_parameters: int
    """Number of the transformer's weights."""
    attention_mode: str
    dtype: str
    device: str
    family: str = ""
    """What it has in common with others that run alike, such as ``easyanimate-v5``; empty from an older server."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """One of the tokenizers that a model reads prompts with."""

    name: str
    """Such as ``qwen2-vl``, ``bert`` or ``t5``."""
    max_tokens: int
    """Tokens that are read of a prompt, its template included; the rest is cut."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A size that a server is ready to generate."""

    name: str
    """Height by width, such as ``384x672``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    frame_counts: tuple[int, ...]
    """The frame counts that may be asked for, ascending."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests may ask for."""

    max_request_bytes: int
    """Largest request message, pictures included."""
    max_image_pixels: int
    """Largest picture, width times height."""
    max_prompt_chars: int
    max_steps: int
    max_queued: int
    """Jobs that may wait; the next one is refused."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Values for what a request leaves out."""

    name: str
    steps: int
    solver: str
    cache_threshold: float
    guidance_interval: tuple[float, float]
    is_default: bool
    """Whether requests that name none get this one."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Where one job on a server stands."""

    job_id: str
    bucket: str
    frames: int
    steps: int
    jobs_ahead: int
    """0 for one that runs."""
    phase: Phase | None
    """None while it waits."""
    completed: int
    """Units of the phase that are done."""
    total: int
    unit_seconds: float | None
    elapsed_seconds: float
    """Since it left the queue; while it waits, since it was accepted."""
    eta_seconds: float | None
    """Until the video is complete; while it waits, until work starts. None while nothing was measured yet."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A server's device at one moment, other processes' use of it included."""

    name: str
    memory_used: int
    """Bytes."""
    memory_total: int
    """Bytes."""
    utilization: float
    """Share of the last moments in which it worked, 0 to 1."""
    temperature: float | None
    """Degrees Celsius; None where the device does not tell."""
    power: float | None
    """Watts; None where the device does not tell."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that has a prompt and nothing else."""

    guidance: float
    steps: int
    bucket: str
    """With a picture, the one nearest to it is taken."""
    frames: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server serves."""

    version: str
    """Of the easyanim server."""
    state: State
    state_detail: str
    """One sentence on what the server is doing while it is not serving."""
    jobs: int
    """Jobs that wait or run."""
    model: Model
    buckets: tuple[Bucket, ...]
    """In the server's order of preference."""
    limits: Limits
    activity: tuple[Activity, ...] = ()
    """The jobs that run, then those that wait, in the order of their turn."""
    devices: tuple[DeviceStatus, ...] = ()
    """Empty without an NVIDIA device, or before the model was loaded."""
    profiles: tuple[Profile, ...] = ()
    """The most faithful first; empty from an older server."""
    defaults: Defaults | None = None
    """None before the model was loaded, or from an older server."""
    picture_mime_types: tuple[str, ...] = ()
    """Of the pictures that the server reads, such as ``image/heic``; empty from an older server."""
    tasks: tuple[str, ...] = ()
    """What the model makes videos from: ``text``, ``start``, ``start_end`` and what newer servers add; empty from an
    older server, and until the model is loaded."""
    tokenizers: tuple[Tokenizer, ...] = ()
    """What the model reads prompts with; empty from an older server, and until the model is loaded."""
    solvers: tuple[str, ...] = ()
    """What `solver` of a generation may be, the published one first; empty from an older server, and until the model
    is loaded."""
