"""Reads a finished video file back, as a player that follows its tags would."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

# How much red and blue weigh in luma, by H.273's MatrixCoefficients.
_BT709, _BT601 = 1, 6
_LUMA = {_BT709: (0.2126, 0.0722), _BT601: (0.299, 0.114)}


@dataclass(frozen=True)
class Video:
    """What was in the file."""

    frames: npt.NDArray[np.uint8]
    """(n, height, width, 3) RGB."""
    fps: Fraction
    seconds: float | None
    """Length as the container states it."""
    codec: str
    pixels: str
    """libav's name of the pixel format."""
    colours: tuple[int, int, int, int]
    """H.273's primaries, transfer and matrix, then libav's range (1 limited, 2 full)."""
    comment: str | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames.shape[2], self.frames.shape[1]


def read(data: bytes) -> Video:
    """Decode every frame of a file with one video stream."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = [_rgb(frame) for frame in container.decode(stream)]
        metadata = {name.lower(): text for name, text in container.metadata.items()}
        return Video(
            frames=np.stack(frames),
            fps=stream.average_rate or Fraction(0),
            seconds=None if container.duration is None else container.duration / av.time_base,
            codec=context.codec.canonical_name,
            pixels=str(context.pix_fmt),
            colours=(context.color_primaries, context.color_trc, context.colorspace, context.color_range),
            comment=metadata.get("comment"),
        )


def psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2)
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _rgb(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    if frame.format.name != "yuv420p":
        pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        return pixels
    # By hand, not by libswscale: it made the file, and a mistake would cancel out.
    red_weight, blue_weight = _LUMA[frame.colorspace]
    assert frame.color_range == 1, "luma in 16..235, chroma in 16..240"
    planes = frame.to_ndarray()
    height, width = frame.height, frame.width
    luma = (planes[:height].astype(np.float32) - 16) / 219
    blue_difference, red_difference = (
        (part.reshape(height // 2, width // 2).repeat(2, 0).repeat(2, 1).astype(np.float32) - 128) / 224
        for part in np.split(planes[height:].reshape(-1), 2)
    )
    red = luma + 2 * (1 - red_weight) * red_difference
    blue = luma + 2 * (1 - blue_weight) * blue_difference
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return np.rint(np.stack([red, green, blue], axis=-1) * 255).clip(0, 255).astype(np.uint8)
