"""What is asked for: jobs, their pictures, the shapes that there are.

Pure Python; nothing here knows gRPC, torch or processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from easyanim_server.domain.profiles import DEFAULT_PROFILE, NO_ACCELERATION, PROFILES, Acceleration
from easyanim_server.domain.shape import Geometry

DEFAULT_STEPS = PROFILES[DEFAULT_PROFILE].steps
DEFAULT_GUIDANCE = 6.0
DEFAULT_FPS = 8
MAX_STEPS = 200
GUIDANCE_RANGE = (1.0, 20.0)
FPS_RANGE = (1, 60)
MAX_SEED = 2**63 - 1

TEXT, START, START_END = "text", "start", "start_end"
"""Tasks that a job can have: the prompt alone, with a first frame, with a first and a last frame."""


BLACK = "#000000"
"""What lies behind pictures unless something else is asked for."""


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
    """Pixels, a multiple of `Geometry.size_multiple`."""
    width: int
    """Pixels, a multiple of `Geometry.size_multiple`."""
    frames: int
    """Frames of the video, such as `Geometry.is_frame_count` accepts."""

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
    def parse(cls, text: str, geometry: Geometry | None = None, *, frames: int = 0) -> Bucket:
        """Read ``HxWxF``, or ``HxW`` for the longest clip.

        Args:
            text: Height by width by frames.
            geometry: Of the model that is to make it. Without one, sizes are only checked to be positive.
            frames: Of ``HxW`` where there is no geometry; 0 refuses that form.

        Raises:
            ValueError: the text has another form, or a number is not allowed.
        """
        parts = text.lower().strip().split("x")
        if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"bucket {text!r} must look like 384x672 or 384x672x49 (height x width x frames)")
        longest = geometry.max_frames if geometry else frames
        if len(parts) == 2 and not longest:
            raise ValueError(f"bucket {text!r} must name its frames too, such as 384x672x49 (height x width x frames)")
        height, width, frames = (int(part) for part in [*parts, str(longest)][:3])
        bucket = cls(height, width, frames)
        wrong = geometry.refusal(bucket) if geometry else bucket._empty_side()
        if wrong:
            raise ValueError(f"bucket {text!r}: {wrong}")
        return bucket

    def _empty_side(self) -> str | None:
        sides = {"height": self.height, "width": self.width, "frames": self.frames}
        return next((f"{name} {size} must be positive" for name, size in sides.items() if size <= 0), None)


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
    background: str = BLACK
    """What lies behind the pictures, ``#rrggbb``: under what is transparent, and beside them where they are padded."""
    embed_prompt: bool = False
    """Whether the prompts go into the file's metadata."""
    profile: str = DEFAULT_PROFILE
    """The name that `steps` and `acceleration` were resolved from; the two alone say what is done."""
    acceleration: Acceleration = NO_ACCELERATION
    guidance_rescale: float = 0.0
    """How far guidance is brought back to the spread of the prompt's prediction, in [0, 1]; 0 is off."""

    @property
    def task(self) -> str:
        """What the video is made from beside the prompt, as `Capabilities.tasks` names it."""
        if self.start is None:
            return TEXT
        return START if self.end is None else START_END

    @property
    def predictions(self) -> int:
        """Passes of the transformer that the steps take where none is reused: two with guidance, else one."""
        guided = sum(self.acceleration.guides(step, self.steps) for step in range(self.steps))
        return self.steps + (guided if self.guidance > 1 else 0)
