"""A video's contact sheet, as a terminal shows it."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from easyanim_client.sheet import FRAMES, OTHER_LINES, layout, print_sheet
from easyanim_server.domain.job import OutputFormat
from tests.clips import encode


def screen(width: int = 83, height: int = 12) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, height=height)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def fading(tmp_path: Path) -> Path:
    """A video that goes from black to white, 13 frames of 160 x 96 pixels."""
    levels = np.linspace(0, 255, 13).astype(np.uint8)[:, None, None, None]
    file = tmp_path / "fading.mkv"
    file.write_bytes(encode(OutputFormat.MKV, np.broadcast_to(levels, (13, 96, 160, 3)).copy()))
    return file


def test_four_frames_stand_side_by_side_from_the_first_to_the_last(fading: Path) -> None:
    console = screen()

    assert print_sheet(fading, console)

    drawn = written(console).splitlines()
    assert len(drawn) == 6, "20 characters wide, half as high in pixels of two a character"
    assert drawn[0].count("▀") == 80
    first, *_, last = [part for part in drawn[0].split("▀") if "38;2" in part]
    assert "38;2;0;0;0" in first
    assert "38;2;255;255;255" in last


def test_where_two_rows_make_them_larger_there_are_two(fading: Path) -> None:
    console = screen(80, 24)

    assert print_sheet(fading, console)

    drawn = written(console).splitlines()
    assert [line.count("▀") for line in drawn] == [60] * 9 + [0] + [60] * 9
    assert len(drawn) + OTHER_LINES <= 24
    assert "38;2;0;0;0" in drawn[0]
    assert "38;2;255;255;255" in drawn[-1]


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (20, 5), (1, 1)])
@pytest.mark.parametrize("aspect", [1.75, 1.0, 0.57])
def test_a_sheet_fits_the_terminal(size: tuple[int, int], aspect: float) -> None:
    width, height = size
    in_a_row, columns = layout(width, height, aspect)

    assert columns >= 1
    if width >= 20:
        assert in_a_row * columns + in_a_row - 1 <= width
    if height >= 24:
        rows = FRAMES // in_a_row
        assert rows * columns / aspect / 2 + rows - 1 + OTHER_LINES <= height


def test_without_colours_nothing_is_drawn(fading: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)

    assert not print_sheet(fading, console)
    assert written(console) == ""


def riff(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "little") + data


SOUND = bytes.fromhex("01000100401f0000401f000001000800")
"""The header of a WAV: 8 bits, one channel, 8 kHz."""
STRANGE = {
    "nothing known": b"nothing",
    "a file without pictures": b"1\n00:00:00,000 --> 00:00:01,000\nA cat blinks.\n",
    "a title that is not UTF-8": riff(
        b"RIFF",
        b"WAVE" + riff(b"fmt ", SOUND) + riff(b"LIST", b"INFO" + riff(b"INAM", b"\x9f\x9f")) + riff(b"data", b""),
    ),
    "a video of no size": bytes.fromhex("259e65e6f09afadde491e7427787eb350b5e2728bc9b0000010881fcc087"),
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE.keys())
def test_a_file_that_is_no_video_draws_nothing(tmp_path: Path, data: bytes) -> None:
    strange, console = tmp_path / "strange.mp4", screen()
    strange.write_bytes(data)

    assert not print_sheet(strange, console)
    assert written(console) == ""


def test_without_pyav_nothing_is_drawn(fading: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_av(name: str, *args: Any, **options: Any) -> object:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert not print_sheet(fading, screen())
