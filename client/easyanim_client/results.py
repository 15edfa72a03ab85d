"""What a generation gives back, as frozen dataclasses: events, the video and its receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from easyanim_client.wording import counted


class Phase(str, Enum):
    """What a worker is doing."""

    TEXT_ENCODE = "text_encode"
    """Reading the prompts; units are prompts."""
    IMAGE_ENCODE = "image_encode"
    """Bringing the pictures into latent space; units are frames."""
    DENOISE = "denoise"
    """Removing noise; units are steps."""
    DECODE = "decode"
    """Turning latents into frames and frames into the file; units are frames."""
    UNKNOWN = "unknown"
    """A phase that a newer server has and this client does not know."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """A generation's parameters with every default resolved by the server."""

    prompt: str
    negative_prompt: str
    """Empty means none."""
    bucket: str
    """Height by width, such as ``384x672``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    frames: int
    steps: int
    guidance: float
    """Classifier-free guidance; 1 means off."""
    seed: int
    fps: int
    """Frames per second of the file."""
    format: str
    """``mp4``, ``webm`` or ``mkv``; the media type itself where this client does not know it."""
    fit: str
    """How pictures were fitted: ``crop``, ``pad`` or ``stretch``."""
    conditioning: str
    """What the video starts from and ends in: ``text``, ``start`` or ``start_end``; `task` is its successor."""
    profile: str = ""
    """Where values came from that the request left out, such as ``exact``; empty from an older server."""
    solver: str = "euler"
    cache_threshold: float = 0.0
    """Change up to which steps reused what was computed before; 0 means off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Start and end of guidance, as shares of the steps."""
    guidance_rescale: float = 0.0
    """How far guidance was brought back to the spread of the prompt's own prediction; 0 means off."""
    background_color: str = "#000000"
    """What lay behind the pictures."""
    task: str = ""
    """What the video is made from beside the prompt, one of `ServerInfo.tasks`."""


@dataclass(frozen=True, slots=True)
class PromptWarning:
    """Something in a prompt that the model is likely to misread."""

    rule: str
    """The rule's name, such as ``negation``."""
    message: str
    """One sentence: what is wrong, and what to write instead."""
    excerpt: str
    """The part of the prompt that is meant; empty where it is all of it."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How one of the model's tokenizers counts a prompt."""

    name: str
    """As in `ServerInfo.tokenizers`, such as ``t5``."""
    tokens: int
    """Of the prompt with any template, before any cut."""
    max_tokens: int
    """What is read of it."""


@dataclass(frozen=True, slots=True)
class PromptReading:
    """How a server's model would read a prompt."""

    tokens: int
    """Of the prompt with the chat template, before any cut."""
    max_tokens: int
    """What the model reads."""
    truncated: bool
    """True where the prompt is longer; its end would be ignored."""
    warnings: tuple[PromptWarning, ...]
    negative_prompt: str
    """What a generation would take as the negative prompt."""
    tokenizers: tuple[TokenCount, ...] = ()
    """How each of the model's tokenizers counts the prompt; the numbers above are those of the one that reads most.
    Empty from an older server."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is valid and has a place in the queue; the first event."""

    job_id: str
    """Identifies the job in the server's logs."""
    parameters: Parameters
    prompt_tokens: int
    """Tokens of the prompt with the chat template, before any cut."""
    prompt_truncated: bool
    """True where the prompt was longer than the model reads; its end is ignored."""
    prompt_warnings: tuple[PromptWarning, ...] = ()
    """What in the prompts is likely to be misread; they are used as they are."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits for a worker."""

    jobs_ahead: int
    """Jobs before this one, the running one included; 0 means next."""
    eta_seconds: float | None
    """Expected wait until work starts; None while nothing was measured yet."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A phase advanced, or nothing was said for 5 seconds."""

    phase: Phase
    completed: int
    """Units of this phase that are done."""
    total: int
    """Units that this phase has."""
    unit_seconds: float | None
    """Mean time of one unit of this phase so far; None before the first."""
    elapsed_seconds: float
    """Since the job left the queue."""
    eta_seconds: float | None
    """Expected time until the video is complete; None while nothing was measured yet."""
    reused_steps: int = 0
    """Denoising steps so far that reused what was computed before."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the file; all chunks one after the other are the file, those before a `Restarted` excepted."""

    offset: int
    """Position of the first byte in the file."""
    data: bytes

    def __repr__(self) -> str:
        return f"Chunk(offset={self.offset}, data=<{counted(len(self.data), 'byte')}>)"


@dataclass(frozen=True, slots=True)
class Restarted:
    """The server lost its worker and makes the same video again, with the same seed.

    What follows `Accepted` begins anew: whoever handles chunks discards those that came before, since the next one has
    offset 0. `Video` and `save_to` have the bytes of the run that was completed alone.
    """

    attempt: int
    """The run that begins now: 2 after the first loss."""
    reason: str
    """What ended the run before: ``WORKER_LOST``."""
    detail: str
    """How it ended, in one sentence."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each phase as the server measured them."""

    queue_seconds: float
    """From acceptance to the start of work, of the run that was completed."""
    text_encode_seconds: float
    image_encode_seconds: float
    denoise_seconds: float
    decode_seconds: float
    """Decoding frames, with the video encoder's work among them."""
    total_seconds: float
    """From the start of work to the last byte."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What produced a video: enough to generate it again."""

    parameters: Parameters
    model: str
    """A Hugging Face id, a folder's name or a builtin."""
    model_fingerprint: str
    """SHA-256 over the model's configuration and weight names and shapes, hex."""
    attention_mode: str
    """``original`` or ``diffusers``."""
    dtype: str
    """Compute type: ``bfloat16`` or ``float32``."""
    device: str
    backend: str
    """How the transformer ran, such as ``eager``."""
    profile: str
    """See `Parameters.profile`; of older servers ``balanced`` where products were in fp8."""
    versions: Mapping[str, str]
    """Versions by library."""
    attention: str = ""
    """The attention kernel, such as ``fa4``."""
    precision: str = ""
    """Type of the large products: ``float32``, ``bf16`` or ``fp8``."""
    latents_sha256: str = ""
    """Of the latents after the last step, hex: equal where two generations computed the same, in any format."""
    start_image_sha256: str = ""
    """Of the start image as it was sent, hex; empty without one."""
    end_image_sha256: str = ""
    """Of the end image as it was sent, hex; empty without one."""
    reused_steps: int = 0
    """Denoising steps that reused what was computed before."""
    predictions: int = 0
    """Passes through the transformer's blocks; 0 from an older server."""
    cache_coefficients: tuple[float, ...] = ()
    """Of the polynomial that reuse was decided with; empty where it was off."""


@dataclass(frozen=True, slots=True)
class Video:
    """A complete video whose size and SHA-256 are what the server announced; the last event."""

    path: Path | None
    """Where it was saved; None where `save_to` was not given."""
    data: bytes | None = field(repr=False)
    """The file itself; None where it was saved to `path`."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""
    timings: Timings
    peak_device_bytes: int
    """Highest memory of the device's allocator during the job; 0 on CPU."""
    receipt: Receipt
    request_id: str = ""
    """Finds the call in the server's log."""

    def read(self) -> bytes:
        """The file's bytes, wherever they are.

        Raises:
            OSError: the file was saved and cannot be read any more.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None  # a video is in memory or on disk
        return self.path.read_bytes()


Event = Accepted | Queued | Progress | Chunk | Restarted | Video
"""One event of a generation. Newer servers may bring further kinds, which are skipped."""
