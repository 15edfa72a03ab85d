"""The client's own reader of metadata, on files of the server's encoder and on damaged ones."""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyanim_client import metadata
from easyanim_client.metadata import find_comment, read_comment
from easyanim_server.domain.job import OutputFormat
from tests.clips import encode, moving_pattern

COMMENT = '{"prompt": "猫在眨眼 – a cat blinks", "more": "' + "x" * 3_000 + '"}'
every_format = pytest.mark.parametrize("output", OutputFormat, ids=lambda output: output.name)


@pytest.fixture(scope="module")
def videos() -> dict[OutputFormat, bytes]:
    return {output: encode(output, moving_pattern(9), comment=COMMENT) for output in OutputFormat}


@every_format
def test_the_comment_comes_back_as_it_was_given(
    output: OutputFormat, videos: dict[OutputFormat, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "video"
    file.write_bytes(videos[output])

    assert read_comment(file) == COMMENT


@every_format
def test_a_file_that_was_cut_after_its_header_still_has_its_comment(
    output: OutputFormat, videos: dict[OutputFormat, bytes]
) -> None:
    data = videos[output]
    header = data.index(b'"}', data.index("猫".encode())) + 2

    assert find_comment(io.BytesIO(data[: header + 100])) == COMMENT
    assert find_comment(io.BytesIO(data[: header - 10])) is None


@every_format
def test_a_file_without_a_comment_has_none(output: OutputFormat) -> None:
    assert find_comment(io.BytesIO(encode(output, moving_pattern(5)))) is None


@every_format
def test_a_file_that_another_program_wrote_again_keeps_its_comment(
    output: OutputFormat, videos: dict[OutputFormat, bytes]
) -> None:
    again = io.BytesIO()
    container = {"MP4": "mp4", "WEBM": "webm", "MKV": "matroska"}[output.name]
    with av.open(io.BytesIO(videos[output]), "r") as source, av.open(again, "w", format=container) as target:
        target.metadata.update({name.lower(): text for name, text in source.metadata.items()})
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)

    assert find_comment(again) == COMMENT


def test_a_comment_beyond_the_bound_is_passed_over(
    videos: dict[OutputFormat, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "MAX_COMMENT_BYTES", 1_000)

    assert [find_comment(io.BytesIO(data)) for data in videos.values()] == [None, None, None]


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\1moov", b"\x1aE\xdf\xa3", b"\x1aE\xdf\xa3\x80\x18S\x80g\xff"])
def test_a_stub_of_a_file_has_no_comment(data: bytes) -> None:
    assert find_comment(io.BytesIO(data)) is None


@given(st.data())
def test_damaged_files_are_read_without_an_error(videos: dict[OutputFormat, bytes], data: st.DataObject) -> None:
    whole = videos[data.draw(st.sampled_from(OutputFormat))]
    head = bytearray(whole[:6_000])
    for _ in range(data.draw(st.integers(1, 8))):
        head[data.draw(st.integers(0, 1_200))] = data.draw(st.integers(0, 255))

    comment = find_comment(io.BytesIO(head))
    assert comment is None or len(comment) <= len(head)


@given(st.sampled_from([b"", b"\x1aE\xdf\xa3", b"\0\0\0\x08moov"]), st.binary(max_size=400))
def test_garbage_is_read_without_an_error(start: bytes, data: bytes) -> None:
    comment = find_comment(io.BytesIO(start + data))

    assert comment is None or len(comment) <= 400
