"""A picture of frames for people to look at: what was asked for, and what each profile made of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from dev.quality.cases import Frames

HEIGHT = 96
"""Of a frame on the sheet, in pixels."""
STRIP = 512
"""Width of a row's frames; as many are shown as fit, evenly spaced from the first to the last."""
LABEL, GAP, TITLE, MARGIN = 96, 4, 40, 16
INK, PALE, PAPER, YES, NO = "#1f2328", "#6e7781", "#ffffff", "#1a7f37", "#cf222e"

CHINESE_FONTS = (
    "Noto Sans CJK",
    "Noto Sans SC",
    "Source Han Sans",
    "WenQuanYi",
    "PingFang",
    "Microsoft YaHei",
    "SimHei",
)
"""Families that have Chinese characters, any of which may be installed."""


@dataclass(frozen=True)
class Strip:
    """One video on the sheet."""

    label: str
    frames: Frames
    note: str = ""
    """What was found in it."""
    agrees: bool | None = None


@dataclass(frozen=True)
class Block:
    """One case on the sheet."""

    title: str
    prompt: str
    strips: Sequence[Strip]


def draw(blocks: Sequence[Block], legend: str, file: Path) -> None:
    """Write the sheet, two cases side by side under a line of explanation; the suffix says the format."""
    width, height = LABEL + STRIP, TITLE + max(len(block.strips) for block in blocks) * (HEIGHT + GAP) + MARGIN
    columns = min(2, len(blocks))
    rows = (len(blocks) + 1) // 2
    top = 2 * MARGIN + 16
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * height + top), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), legend, fill=PALE, font=_font(13))
    for number, block in enumerate(blocks):
        _block(sheet, block, (MARGIN + number % 2 * (width + MARGIN), top + number // 2 * height))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, quality=88)


def _block(sheet: Image.Image, block: Block, corner: tuple[int, int]) -> None:
    pen = ImageDraw.Draw(sheet)
    x, y = corner
    pen.text((x, y), block.title, fill=INK, font=_font(15))
    font = _font_for(block.prompt, 12)
    if font is not None:
        pen.text((x, y + 20), textwrap.shorten(block.prompt, 88, placeholder=" …"), fill=PALE, font=font)
    y += TITLE
    for strip in block.strips:
        colour = PALE if strip.agrees is None else YES if strip.agrees else NO
        pen.text((x, y + 2), strip.label, fill=INK, font=_font(13))
        pen.multiline_text((x, y + 20), strip.note, fill=colour, font=_font(12), spacing=3)
        left = x + LABEL
        for frame in _picked(strip.frames):
            sheet.paste(frame, (left, y))
            left += frame.width + GAP
        y += HEIGHT + GAP


def _picked(frames: Frames) -> list[Image.Image]:
    """As many frames as fit, small."""
    width = round(HEIGHT * frames.shape[2] / frames.shape[1])
    count = min(len(frames), max(2, (STRIP + GAP) // (width + GAP)))
    index = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return [Image.fromarray(frames[at]).resize((width, HEIGHT), Image.Resampling.LANCZOS) for at in index]


def _font(size: int) -> FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _font_for(text: str, size: int) -> FreeTypeFont | ImageFont.ImageFont | None:
    """A font that has the text's characters, or None where none is installed."""
    if text.isascii():
        return _font(size)
    for entry in font_manager.fontManager.ttflist:
        if entry.name.startswith(CHINESE_FONTS):
            return ImageFont.truetype(entry.fname, size)
    return None
