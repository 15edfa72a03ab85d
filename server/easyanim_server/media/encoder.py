"""Frames in, the bytes of one video file out as soon as they are final."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import OutputFormat
from easyanim_server.media.mp4 import with_duration

_GROUP = 4
"""Frames that the engine decodes at once; so many become final together."""

_BICUBIC, _ACCURATE_ROUNDING, _BIT_EXACT = 0x4, 0x40000, 0x80000
_SCALER = _BICUBIC | _ACCURATE_ROUNDING | _BIT_EXACT
"""libswscale's flags under which every CPU computes the same bytes; PyAV 17 names only the first."""

_THREADS = {"threads": "4"}
"""Fixed: the encoders cut a picture by their threads, so a count taken from the machine would change the bytes."""

_BT709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709", "color_range": "tv"}
_RGB = {"color_primaries": "bt709", "color_trc": "iec61966-2-1", "colorspace": "rgb", "color_range": "pc"}


@dataclass(frozen=True)
class _Recipe:
    container: str
    codec: str
    pixels: str
    options: dict[str, str]


_RECIPES = {
    # zerolatency: no B-frames and no look-ahead, so that a frame's packet exists when the frame was given.
    OutputFormat.MP4: _Recipe(
        container="mp4",
        codec="libx264",
        pixels="yuv420p",
        options={"preset": "medium", "tune": "zerolatency", "crf": "18"} | _BT709,
    ),
    # Without lag, as above. "good" would make files of still scenes a quarter smaller, but take more than twice as
    # long, and the device waits meanwhile.
    OutputFormat.WEBM: _Recipe(
        container="webm",
        codec="libvpx-vp9",
        pixels="yuv420p",
        options={"deadline": "realtime", "cpu-used": "5", "lag-in-frames": "0", "crf": "18", "b": "0"}
        | {"row-mt": "1", "tile-columns": "2"}
        | _BT709,
    ),
    # bgr0 is the 8-bit RGB that FFV1 stores as it is. Every frame is a key frame, so that editors can jump.
    OutputFormat.MKV: _Recipe(
        container="matroska",
        codec="ffv1",
        pixels="bgr0",
        options={"level": "3", "coder": "range_tab", "context": "1", "slices": "4", "slicecrc": "1", "g": "1"} | _RGB,
    ),
}


def missing_codecs() -> list[str]:
    """Encoders that some output format needs and the installed PyAV lacks, by libav's names."""
    return [recipe.codec for recipe in _RECIPES.values() if not _has_encoder(recipe.codec)]


def require_codec(output: OutputFormat) -> None:
    """Refuse what cannot be written here.

    Raises:
        ConfigurationError: the installed PyAV lacks the format's encoder.
    """
    codec = _RECIPES[output].codec
    if not _has_encoder(codec):
        raise ConfigurationError(
            f"{output.value} needs the encoder {codec}, which PyAV {av.__version__} was built without; "
            "PyAV's own wheels on PyPI have it"
        )


class VideoEncoder:
    """Writes one video file front to back; the bytes that its methods return, in order, are the file.

    - MP4: H.264 High, 4:2:0, fragments of four frames.
    - WebM: VP9, 4:2:0.
    - Matroska: FFV1, 8-bit RGB, lossless.

    The lossy formats carry BT.709 colours in limited range, and say so. The same frames give the same bytes. Nothing
    is ever written twice or out of order, hence WebM and Matroska have no seek index (players scan for key frames),
    and a file has its length in its header only if `frames` was given; an MP4's fragments add up to it anyway.

    As a context manager it frees the encoder on the way out; only `close` completes the file. For one thread at a
    time.
    """

    def __init__(
        self,
        output: OutputFormat,
        *,
        width: int,
        height: int,
        fps: int,
        comment: str = "",
        frames: int | None = None,
    ) -> None:
        """Open the file.

        Args:
            output: The file's format.
            width: Pixels, even.
            height: Pixels, even.
            fps: Frames per second, at least 1.
            comment: Text for the file's metadata; nothing is stored if empty.
            frames: How many frames will be written, if that is known.

        Raises:
            ConfigurationError: the installed PyAV lacks the encoder.
        """
        require_codec(output)
        recipe = _RECIPES[output]
        self._shape = (height, width, 3)
        self._frame_seconds = Fraction(1, fps)
        self._pixels = recipe.pixels
        self._promised = frames
        self._written = 0
        self._open = True
        self._sink = _Sink()
        self._reformatter = VideoReformatter()
        # bitexact keeps random ids and library versions out of the file; libav's own log is off in PyAV by default.
        self._container = av.open(
            self._sink,
            "w",
            format=recipe.container,
            options={"fflags": "+bitexact", "flush_packets": "1"} | _container_options(output, self._frame_seconds),
        )
        if comment:
            self._container.metadata["comment"] = comment
        options = recipe.options | _THREADS
        self._stream = cast(VideoStream, self._container.add_stream(recipe.codec, rate=fps, options=options))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, recipe.pixels
        self._stream.codec_context.time_base = self._frame_seconds
        if frames is not None and output is not OutputFormat.MP4:
            # Matroska's writer takes the length from here, since it cannot go back to fill it in.
            self._stream.metadata["DURATION"] = _timestamp(frames * self._frame_seconds)
        self._container.start_encoding()
        if frames is not None and output is OutputFormat.MP4:
            self._sink.write(with_duration(self._sink.take(), frames * self._frame_seconds))

    def write(self, frames: npt.NDArray[np.uint8]) -> bytes:
        """Encode the next frames.

        Args:
            frames: (n, height, width, 3) uint8 RGB, C-contiguous; n may be 0.

        Returns:
            The file's next bytes; empty if none became final.

        Raises:
            ValueError: `frames` has another shape, type or layout, is more than was promised, or the file is closed.
        """
        self._check(frames)
        for frame in frames:
            picture = self._convert(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            picture.pts, picture.time_base = self._written, self._frame_seconds
            self._container.mux(self._stream.encode(picture))
            self._written += 1
        return self._sink.take()

    def close(self) -> bytes:
        """Complete the file and return the rest of its bytes; nothing if it is closed already.

        Raises:
            ValueError: no frame was written, or fewer than promised.
        """
        if not self._open:
            return b""
        if not self._written or self._written < (self._promised or 0):
            expected = self._promised or "at least 1"
            raise ValueError(f"{self._written} frames were written; the file must have {expected}")
        self._container.mux(self._stream.encode(None))
        self._release()
        return self._sink.take()

    def __enter__(self) -> VideoEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open:
            self._release()
            self._sink.take()

    def _release(self) -> None:
        self._open = False
        self._container.close()
        # The encoder and its threads live as long as the stream does.
        del self._stream, self._container

    def _check(self, frames: npt.NDArray[np.uint8]) -> None:
        if not self._open:
            raise ValueError("the file is closed; frames can be written only before that")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._shape:
            expected = f"(n, {', '.join(map(str, self._shape))})"
            raise ValueError(f"frames are {frames.dtype} {frames.shape}; must be uint8 {expected}")
        if not frames.flags.c_contiguous:
            raise ValueError(f"frames have strides {frames.strides}; must be C-contiguous")
        if self._promised is not None and self._written + len(frames) > self._promised:
            raise ValueError(f"{self._written + len(frames)} frames were given; the file must have {self._promised}")

    def _convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        # One thread: more would stay behind idle, one for each core, for a millisecond's work.
        if self._pixels == "bgr0":
            return self._reformatter.reformat(picture, format="bgr0", threads=1)
        # libswscale would take BT.601 for itself.
        return self._reformatter.reformat(
            picture,
            format=self._pixels,
            interpolation=_SCALER,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )


class _Sink:
    """A file that can only be written: without `seek`, libav never goes back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _container_options(output: OutputFormat, frame_seconds: Fraction) -> dict[str, str]:
    """What makes libav end a fragment or cluster with the first frame of the next group."""
    if output is OutputFormat.MP4:
        microseconds = _GROUP * frame_seconds * 1_000_000
        return {"movflags": "empty_moov+default_base_moof", "frag_duration": str(round(microseconds))}
    # Frames beyond the limit start a cluster; half a frame less than a group is safe from rounding to milliseconds.
    milliseconds = (_GROUP - Fraction(1, 2)) * frame_seconds * 1_000
    return {"cluster_time_limit": str(round(milliseconds))}


def _timestamp(seconds: Fraction) -> str:
    nanoseconds = round(seconds * 1_000_000_000)
    minutes, nanoseconds = divmod(nanoseconds, 60 * 1_000_000_000)
    hours, minutes = divmod(minutes, 60)
    whole, nanoseconds = divmod(nanoseconds, 1_000_000_000)
    return f"{hours:02}:{minutes:02}:{whole:02}.{nanoseconds:09}"


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True
