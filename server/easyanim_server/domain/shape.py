"""The shapes that a model makes: compression of its latents, and what follows for heights, widths and frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from easyanim_server.domain.wording import counted


class VideoShape(Protocol):
    """Height, width and frames of a video."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def frames(self) -> int:
        """Frames of the video."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a model's latents and tokens cover a video. The first latent frame holds one frame, later ones `temporal`."""

    temporal: int
    """Frames that each latent frame after the first one stands for."""
    spatial: int
    """Pixels for each element of the latents, in height and in width."""
    patch: int
    """Elements of the latents for each token, in height and in width."""
    latent_channels: int
    """Channels of the latents."""
    max_frames: int
    """Longest clip that the model was trained on."""

    @property
    def size_multiple(self) -> int:
        """Heights and widths are multiples of it, in pixels."""
        return self.spatial * self.patch

    @property
    def frame_form(self) -> str:
        """Which frame counts there are, as text: ``4k+1``."""
        return f"{self.temporal}k+1"

    def frames_of(self, latent_frames: int) -> int:
        """Frames that so many latent frames decode to."""
        return 1 + self.temporal * (latent_frames - 1)

    def latent_shape(self, shape: VideoShape) -> tuple[int, int, int, int]:
        """Channels, latent frames, rows and columns of a video's latents."""
        frames = (shape.frames - 1) // self.temporal + 1
        return self.latent_channels, frames, shape.height // self.spatial, shape.width // self.spatial

    def video_tokens(self, shape: VideoShape) -> int:
        """How many tokens the denoiser sees of a video, text not included."""
        _, frames, rows, columns = self.latent_shape(shape)
        return frames * (rows // self.patch) * (columns // self.patch)

    def is_frame_count(self, frames: int) -> bool:
        """Whether the model makes clips of so many frames."""
        return 1 <= frames <= self.max_frames and (frames - 1) % self.temporal == 0

    def refusal(self, shape: VideoShape) -> str | None:
        """What is wrong with a shape, and what is allowed; None of a shape that the model makes."""
        multiple = self.size_multiple
        for name, pixels in (("height", shape.height), ("width", shape.width)):
            if pixels <= 0 or pixels % multiple:
                return f"{name} {pixels} must be a positive multiple of {multiple}"
        return self.frames_refusal(shape.frames)

    def frames_refusal(self, frames: int) -> str | None:
        """What is wrong with a number of frames, and what is allowed; None of one that the model makes."""
        if self.is_frame_count(frames):
            return None
        return f"{counted(frames, 'frame')}; must be {self.frame_form}, from 1 to {self.max_frames}"
