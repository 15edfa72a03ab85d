"""A contact sheet of a video in the terminal, two pixels a character; only where PyAV happens to be installed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

FRAMES = 4
"""On a sheet, spread evenly from the first to the last."""
GAP = 1


def print_sheet(file: Path, console: Console) -> bool:
    """Print a few frames of a video side by side, as wide as the terminal.

    Returns:
        Whether that was possible: the terminal shows colours, PyAV is installed and reads the file.
    """
    if console.color_system is None:
        return False
    pictures = _pictures(file, (console.width - GAP * (FRAMES - 1)) // FRAMES)
    for row in range(min((len(picture) for picture in pictures), default=0)):
        console.print(Text(" " * GAP).join(picture[row] for picture in pictures), soft_wrap=True)
    return bool(pictures)


def _pictures(file: Path, columns: int) -> list[list[Text]]:
    """Frames as rows of characters; empty where they cannot be had."""
    try:
        import av
    except ImportError:  # decoding is no part of a thin client
        return []
    try:
        with av.open(file) as container:
            count = sum(1 for _ in container.decode(video=0))
        wanted = {round(index * (count - 1) / (FRAMES - 1)) for index in range(FRAMES)}
        with av.open(file) as container:
            return [_rows(frame, columns) for index, frame in enumerate(container.decode(video=0)) if index in wanted]
    except av.error.FFmpegError:
        return []


def _rows(frame: object, columns: int) -> list[Text]:
    height = max(round(columns * frame.height / frame.width / 2), 1) * 2  # type: ignore[attr-defined]
    small = frame.reformat(width=columns, height=height, format="rgb24")  # type: ignore[attr-defined]
    plane = small.planes[0]
    data, stride = bytes(plane), plane.line_size

    def colour(row: int, column: int) -> str:
        red, green, blue = data[row * stride + 3 * column :][:3]
        return f"#{red:02x}{green:02x}{blue:02x}"

    return [
        Text.assemble(
            *(("▀", Style(color=colour(row, column), bgcolor=colour(row + 1, column))) for column in range(columns))
        )
        for row in range(0, height, 2)
    ]
