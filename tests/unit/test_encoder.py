from __future__ import annotations

import io
import itertools
import struct
from typing import Any, Literal

import av
import numpy as np
import psutil
import pytest

from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import OutputFormat
from easyanim_server.media.encoder import VideoEncoder, missing_codecs
from tests.clips import FPS, FRAMES, GROUPS, HEIGHT, WIDTH, Frames, encode, moving_pattern, parts
from tests.video_reader import psnr, read

"""How the engine hands frames over."""

every_format = pytest.mark.parametrize("output", OutputFormat, ids=lambda output: output.name)


def still(colour: int | tuple[int, int, int], frames: int = 5) -> Frames:
    return np.full((frames, HEIGHT, WIDTH, 3), colour, np.uint8)


@pytest.fixture(scope="module")
def pattern() -> Frames:
    return moving_pattern()


@pytest.mark.parametrize(("frames", "fps"), [(1, 8), (5, 1), (13, 7), (49, 8), (49, 24), (25, 60)])
@every_format
def test_a_file_reads_back_with_its_frames_size_rate_and_length(output: OutputFormat, frames: int, fps: int) -> None:
    video = read(encode(output, moving_pattern(frames), fps=fps))

    assert len(video.frames) == frames
    assert video.size == (WIDTH, HEIGHT)
    assert float(video.fps) == pytest.approx(fps, rel=1e-3)
    assert video.seconds == pytest.approx(frames / fps, abs=0.002)


@pytest.mark.parametrize("output", [OutputFormat.MP4, OutputFormat.WEBM], ids=lambda output: output.name)
def test_a_moving_pattern_survives_the_lossy_formats(output: OutputFormat, pattern: Frames) -> None:
    video = read(encode(output, pattern))

    assert min(psnr(one, other) for one, other in zip(pattern, video.frames, strict=True)) > 35


@pytest.mark.parametrize("kind", ["pattern", "noise"])
def test_matroska_gives_back_every_bit(kind: str, pattern: Frames) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = {"pattern": pattern, "noise": noise}[kind]

    assert np.array_equal(read(encode(OutputFormat.MKV, frames)).frames, frames)


@pytest.mark.parametrize(
    "colour",
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 120, 40)],
    ids=str,
)
@every_format
def test_a_colour_is_the_same_for_a_player_that_follows_the_tags(
    output: OutputFormat, colour: tuple[int, int, int]
) -> None:
    video = read(encode(output, still(colour)))

    assert np.abs(video.frames.astype(int) - colour).max() <= 3


def test_every_format_says_how_its_colours_are_meant(pattern: Frames) -> None:
    bt709, srgb, as_rgb, limited, full = 1, 13, 0, 1, 2

    found = {output: read(encode(output, pattern[:1])) for output in OutputFormat}

    assert {output: (video.codec, video.pixels, video.colours) for output, video in found.items()} == {
        OutputFormat.MP4: ("h264", "yuv420p", (bt709, bt709, bt709, limited)),
        OutputFormat.WEBM: ("vp9", "yuv420p", (bt709, bt709, bt709, limited)),
        OutputFormat.MKV: ("ffv1", "bgr0", (bt709, srgb, as_rgb, full)),
    }


@every_format
def test_most_bytes_leave_before_the_file_is_closed(output: OutputFormat, pattern: Frames) -> None:
    *early, late = parts(output, pattern)

    assert len(b"".join(early)) > 0.85 * (len(b"".join(early)) + len(late))


@every_format
def test_every_group_sends_the_frames_of_the_one_before(output: OutputFormat, pattern: Frames) -> None:
    *early, _ = parts(output, pattern)

    assert all(early)
    assert len(read(b"".join(early[:4])).frames) >= 9, "frames in the first three groups"


@every_format
def test_the_same_frames_give_the_same_bytes_however_they_are_grouped(output: OutputFormat, pattern: Frames) -> None:
    whole, one_by_one = [slice(None)], [slice(number, number + 1) for number in range(FRAMES)]

    assert (
        encode(output, pattern) == encode(output, pattern, groups=whole) == encode(output, pattern, groups=one_by_one)
    )


def test_an_mp4_is_made_of_boxes_to_its_last_byte(pattern: Frames) -> None:
    data = encode(OutputFormat.MP4, pattern)

    assert boxes(data) == ["ftyp", "moov", *["moof", "mdat"] * 13, "mfra"], "fragments of four frames and one of one"


def test_an_mp4_tells_its_length_with_its_first_bytes(pattern: Frames) -> None:
    first, *_ = parts(OutputFormat.MP4, pattern)

    assert boxes(first)[:2] == ["ftyp", "moov"]
    assert boxes(first, b"moov", b"mvex") == ["mehd", "trex"]
    milliseconds = first.index(b"mehd") + 8
    assert struct.unpack_from(">I", first, milliseconds) == (6125,)


@pytest.mark.parametrize("output", [OutputFormat.WEBM, OutputFormat.MKV], ids=lambda output: output.name)
def test_matroska_tells_its_length_before_it_is_complete(output: OutputFormat, pattern: Frames) -> None:
    early = b"".join(parts(output, pattern)[:5])

    assert read(early).seconds == 6.125


@every_format
def test_a_player_that_cannot_seek_sees_every_frame_at_its_time(output: OutputFormat, pattern: Frames) -> None:
    class Pipe:
        def __init__(self, data: bytes) -> None:
            self.read = io.BytesIO(data).read

    with av.open(Pipe(encode(output, pattern)), "r") as container:
        stream = container.streams.video[0]
        assert stream.average_rate == FPS
        times = [frame.time for frame in container.decode(stream)]

    assert times == [number / FPS for number in range(FRAMES)]


@every_format
def test_the_number_of_frames_need_not_be_known(output: OutputFormat, pattern: Frames) -> None:
    video = read(encode(output, pattern, promise=False))

    assert len(video.frames) == FRAMES
    assert video.fps == FPS


def boxes(data: bytes, *path: bytes) -> list[str]:
    """Names of the boxes at the top of a file, or inside the box that `path` leads to."""
    names, start = [], 0
    while start < len(data):
        size, name = struct.unpack_from(">I4s", data, start)
        assert 8 <= size <= len(data) - start
        if path and name == path[0]:
            return boxes(data[start + 8 : start + size], *path[1:])
        names.append(name.decode())
        start += size
    return names


@pytest.mark.parametrize(
    "comment", ["seed 42", '{"prompt": "小猫 – naïve ☕"}', "x" * 4000], ids=["short", "unicode", "long"]
)
@every_format
def test_the_comment_is_in_the_file(output: OutputFormat, comment: str, pattern: Frames) -> None:
    assert read(encode(output, pattern[:1], comment=comment)).comment == comment


@every_format
def test_no_comment_leaves_none(output: OutputFormat, pattern: Frames) -> None:
    assert read(encode(output, pattern[:1])).comment is None


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, HEIGHT, WIDTH, 3), np.float32), r"are float32 .*; must be uint8"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), r"uint8 \(96, 160, 3\); must be uint8 \(n, 96, 160, 3\)"),
        (np.zeros((1, WIDTH, HEIGHT, 3), np.uint8), r"\(1, 160, 96, 3\); must be uint8 \(n, 96, 160, 3\)"),
        (np.zeros((1, 3, HEIGHT, WIDTH), np.uint8).transpose(0, 2, 3, 1), r"have strides .*; must be C-contiguous"),
    ],
    ids=["type", "one-frame", "turned", "layout"],
)
def test_frames_of_another_kind_are_refused_with_both_kinds_named(frames: Frames, message: str) -> None:
    with (
        VideoEncoder(OutputFormat.MP4, width=WIDTH, height=HEIGHT, fps=FPS) as encoder,
        pytest.raises(ValueError, match=message),
    ):
        encoder.write(frames)


def test_more_frames_than_promised_are_refused() -> None:
    with VideoEncoder(OutputFormat.MP4, width=WIDTH, height=HEIGHT, fps=FPS, frames=5) as encoder:
        encoder.write(still(0, frames=4))
        with pytest.raises(ValueError, match="6 frames were given; the file must have 5"):
            encoder.write(still(0, frames=2))


@pytest.mark.parametrize(("promised", "expected"), [(5, "5"), (None, "at least 1")])
def test_a_file_with_too_few_frames_is_not_completed(promised: int | None, expected: str) -> None:
    with VideoEncoder(OutputFormat.MP4, width=WIDTH, height=HEIGHT, fps=FPS, frames=promised) as encoder:
        encoder.write(still(0, frames=0))
        with pytest.raises(ValueError, match=f"0 frames were written; the file must have {expected}"):
            encoder.close()


def test_a_closed_file_takes_nothing_and_gives_nothing() -> None:
    with VideoEncoder(OutputFormat.MP4, width=WIDTH, height=HEIGHT, fps=FPS) as encoder:
        encoder.write(still(0))
        encoder.close()

        assert encoder.close() == b""
        with pytest.raises(ValueError, match="the file is closed"):
            encoder.write(still(0))


@every_format
def test_an_abandoned_file_frees_its_encoder(output: OutputFormat, pattern: Frames) -> None:
    process = psutil.Process()

    def abandon() -> None:
        with VideoEncoder(output, width=WIDTH, height=HEIGHT, fps=FPS, frames=FRAMES) as encoder:
            encoder.write(pattern[:9])
            raise KeyboardInterrupt

    before = process.num_threads()
    kept = []
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt) as caught:
            abandon()
        kept.append(caught)  # its traceback holds the encoder

    assert process.num_threads() < before + len(kept), "an encoder has at least one thread of its own"


@every_format
def test_nothing_is_printed(output: OutputFormat, pattern: Frames, capfd: pytest.CaptureFixture[str]) -> None:
    encode(output, pattern[:5])

    assert capfd.readouterr() == ("", "")


def test_the_installed_libav_has_every_encoder() -> None:
    assert missing_codecs() == []


@every_format
def test_a_missing_encoder_is_named(output: OutputFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = {OutputFormat.MP4: "libx264", OutputFormat.WEBM: "libvpx-vp9", OutputFormat.MKV: "ffv1"}
    codec = av.Codec

    def lacking(name: str, mode: Literal["r", "w"]) -> Any:
        return codec("not-there" if name == encoders[output] else name, mode)

    monkeypatch.setattr(av, "Codec", lacking)

    assert missing_codecs() == [encoders[output]]
    with pytest.raises(ConfigurationError, match=f"{output.value} needs the encoder {encoders[output]}"):
        VideoEncoder(output, width=WIDTH, height=HEIGHT, fps=FPS)


def test_two_files_can_be_written_in_turns(pattern: Frames) -> None:
    expected = encode(OutputFormat.MP4, pattern)

    written = [b"", b""]
    encoders = [VideoEncoder(OutputFormat.MP4, width=WIDTH, height=HEIGHT, fps=FPS, frames=FRAMES) for _ in written]
    for group, number in itertools.product(GROUPS, range(2)):
        written[number] += encoders[number].write(pattern[group])
    for number, encoder in enumerate(encoders):
        written[number] += encoder.close()

    assert written == [expected, expected]
