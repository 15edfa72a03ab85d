"""A video's contact sheet, as a terminal shows it."""

from __future__ import annotations

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from easyanim_client.sheet import print_sheet
from easyanim_server.job import OutputFormat
from tests.unit.test_encoder import encode


def screen(width: int = 83, **options: object) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, **options)


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

    drawn = console.file.getvalue().splitlines()
    assert len(drawn) == 6, "20 characters wide, half as high in pixels of two a character"
    assert drawn[0].count("▀") == 80
    first, *_, last = [part for part in drawn[0].split("▀") if "38;2" in part]
    assert "38;2;0;0;0" in first
    assert "38;2;255;255;255" in last


def test_without_colours_nothing_is_drawn(fading: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)

    assert not print_sheet(fading, console)
    assert console.file.getvalue() == ""


def test_a_file_that_cannot_be_read_draws_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")

    assert not print_sheet(broken, screen())


def test_without_pyav_nothing_is_drawn(fading: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_av(name: str, *args: object, **options: object) -> object:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert not print_sheet(fading, screen())
