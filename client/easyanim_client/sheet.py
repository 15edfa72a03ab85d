"""A contact sheet of a video in the terminal, two pixels a character; only where PyAV happens to be installed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

FRAMES = 4
"""On a sheet, spread evenly from the first to the last."""
IN_A_ROW = (4, 2)
"""Of them, as the terminal allows: what makes them larger is taken."""
GAP = 1
OTHER_LINES = 4
"""Of the terminal: what stands above and below the sheet."""


def print_sheet(file: Path, console: Console) -> bool:
    """Print a few frames of a video side by side, or in two rows where that makes them larger, as the terminal allows.

    Returns:
        Whether that was possible: the terminal shows colours, PyAV is installed and reads the file.
    """
    if console.color_system is None:
        return False
    pictures, in_a_row = _pictures(file, console)
    for start in range(0, len(pictures), in_a_row):
        if start:
            console.print()
        # Not strictly: the frames of a damaged file may differ in height.
        for lines in zip(*pictures[start : start + in_a_row], strict=False):
            console.print(Text(" " * GAP).join(lines), soft_wrap=True)
    return bool(pictures)


def layout(width: int, height: int, aspect: float) -> tuple[int, int]:
    """How many frames stand in a row, and how many characters wide each is.

    Args:
        width: Of the terminal, in characters.
        height: Of the terminal, in lines, each as high as two pixels.
        aspect: Of a frame, width over height.
    """
    found = []
    for in_a_row in IN_A_ROW:
        rows = -(-FRAMES // in_a_row)
        lines = max((height - OTHER_LINES - (rows - 1)) // rows, 1)
        columns = min((width - GAP * (in_a_row - 1)) // in_a_row, int(2 * lines * aspect))
        found.append((max(columns, 1), in_a_row))
    columns, in_a_row = max(found)
    return in_a_row, columns


def _pictures(file: Path, console: Console) -> tuple[list[list[Text]], int]:
    """Frames as rows of characters, and how many stand side by side; none where they cannot be had."""
    try:
        import av
    except ImportError:  # decoding is no part of a thin client
        return [], FRAMES
    try:
        with av.open(file) as container:
            count = sum(1 for _ in container.decode(video=0))
            picture = container.streams.video[0]
            in_a_row, columns = layout(console.width, console.height, picture.width / picture.height)
        wanted = {round(index * (count - 1) / (FRAMES - 1)) for index in range(FRAMES)}
        with av.open(file) as container:
            shown = [_rows(frame, columns) for index, frame in enumerate(container.decode(video=0)) if index in wanted]
            return shown, in_a_row
    except Exception:  # of strange files PyAV raises more than its own errors, and a sheet only adorns a command
        return [], FRAMES


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
