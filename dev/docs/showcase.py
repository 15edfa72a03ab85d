"""Makes docs/demo.webp: one photograph, moved by builtin:demo as several prompts say, side by side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
from PIL import Image, ImageDraw

from easyanim_client import Client

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = ROOT / "examples" / "coffee.jpg"
FILE = ROOT / "docs" / "demo.webp"
PROMPTS = (
    "pan right slowly",
    "zoom in slowly",
    "rotate clockwise slowly",
    "tilt up slowly",
    "zoom out slowly",
)
"""Slow ones: the model makes up what comes into view, and the farther a motion goes, the less that looks like."""
SCALE, CAPTION, FPS = 1.25, 18, 10
"""How much larger videos are shown than they are, pixels of a line of text, frames a second."""


def main() -> None:
    serve: list[str | Path] = [Path(sys.executable).parent / "easyanim-server", "serve", "--model", "builtin:demo",
             "--listen", "127.0.0.1:0", "--log-level", "warning"]  # fmt: skip
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            with Client(address, timeout=None) as client, tempfile.TemporaryDirectory() as folder:
                while not client.health():
                    time.sleep(0.2)
                videos = [make(client, prompt, Path(folder) / f"{n}.mkv") for n, prompt in enumerate(PROMPTS)]
        finally:
            server.terminate()
    pictures = [side_by_side(frames) for frames in zip(*videos, strict=True)]
    pictures[0].save(FILE, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0, quality=80)
    print(f"wrote {FILE}, {FILE.stat().st_size // 1024} KiB")


def make(client: Client, prompt: str, file: Path) -> list[Image.Image]:
    client.generate(prompt, start_image=PHOTOGRAPH, bucket="128x128", seed=1, format="mkv", save_to=file).result()
    with av.open(file) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def side_by_side(frames: tuple[Image.Image, ...]) -> Image.Image:
    size = round(frames[0].width * SCALE)
    picture = Image.new("RGB", (len(frames) * (size + 4) - 4, size + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for number, (prompt, frame) in enumerate(zip(PROMPTS, frames, strict=True)):
        left = number * (size + 4)
        picture.paste(frame.resize((size, size), Image.Resampling.LANCZOS), (left, CAPTION))
        draw.text((left + 2, 1), prompt, fill="black", font_size=13)
    return picture


if __name__ == "__main__":
    main()
