"""What moves in a training clip: the camera, and sometimes an object; as words know it and as the renderer needs it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

SPEEDS = {"slow": (0.5, 0.7), "": (0.9, 1.5), "fast": (1.9, 2.6)}
"""Pixels a frame of a pan, by the word that names the speed; without a word it is left open."""

ZOOM_PER_PIXEL, TURN_PER_PIXEL = 0.0105, math.radians(0.7)
"""What a speed of one pixel a frame means for zooming (logarithm of the scale) and turning."""

THING_SPEED = 1.2
"""How much faster objects are than the camera where the same word names it."""

GRAVITY = (0.22, 0.32)
"""Pixels a frame by which falling objects get faster every frame."""

CAMERA = (
    "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "turn_clockwise", "turn_counterclockwise",
)  # fmt: skip
OBJECT = ("left", "right", "up", "down", "fall", "bounce")
SHAPES = ("ball", "box", "triangle", "star", "ring")
COLOURS = {
    "red": (0.85, 0.13, 0.12), "green": (0.15, 0.62, 0.2), "blue": (0.13, 0.3, 0.85), "yellow": (0.95, 0.8, 0.1),
    "orange": (0.95, 0.5, 0.08), "purple": (0.5, 0.18, 0.65), "white": (0.95, 0.95, 0.95), "black": (0.06, 0.06, 0.07),
    "pink": (0.95, 0.5, 0.68), "brown": (0.45, 0.27, 0.13),
}  # fmt: skip
"""Red, green and blue in [0, 1]."""

GENTLE = "gentle"
"""What a prompt gets that names no motion: a slow zoom in."""


@dataclass(frozen=True)
class Camera:
    """How the scene moves in the picture, every frame."""

    right: float = 0.0
    """Pixels; a camera that pans left makes the scene move right."""
    down: float = 0.0
    """Pixels; a camera that tilts up makes the scene move down."""
    grow: float = 0.0
    """Logarithm of the scale."""
    turn: float = 0.0
    """Radians, clockwise."""


@dataclass(frozen=True)
class Thing:
    """An object before the scene, which stands still unless the camera moves as well."""

    shape: str
    colour: str | None
    """None for a texture."""
    motion: str
    speed: str
    radius: float
    path: tuple[tuple[float, float], ...]
    """Its middle in every frame: pixels right of and below the middle of the picture."""


@dataclass(frozen=True)
class Scene:
    """All that is told of a clip in words, and its numbers."""

    motions: tuple[tuple[str, str], ...]
    """(what the camera does, speed) pairs; none when it holds still."""
    camera: Camera
    thing: Thing | None = None


def camera_of(motions: tuple[tuple[str, str], ...], rates: tuple[float, ...]) -> Camera:
    """Add up motions.

    Args:
        motions: (what, speed) pairs.
        rates: Pixels a frame of each; zooms and turns are as fast as that looks.
    """
    right = down = grow = turn = 0.0
    for (what, _), rate in zip(motions, rates, strict=True):
        match what:
            case "pan_left":
                right += rate
            case "pan_right":
                right -= rate
            case "tilt_up":
                down += rate
            case "tilt_down":
                down -= rate
            case "zoom_in" | "gentle":
                grow += rate * ZOOM_PER_PIXEL
            case "zoom_out":
                grow -= rate * ZOOM_PER_PIXEL
            case "turn_clockwise":
                turn += rate * TURN_PER_PIXEL
            case "turn_counterclockwise":
                turn -= rate * TURN_PER_PIXEL
    return Camera(right, down, grow, turn)


def draw_scene(rng: random.Random, frames: int, height: int, width: int) -> Scene:
    """Draw what a clip shows."""
    kind = rng.random()
    if kind < 0.10:
        motions: tuple[tuple[str, str], ...] = ()
    elif kind < 0.17:
        motions = ((GENTLE, ""),)
    elif kind < 0.62:
        motions = ((rng.choice(CAMERA), _speed(rng)),)
    elif kind < 0.74:
        first = rng.choice(CAMERA)
        second = rng.choice([what for what in CAMERA if what.split("_")[0] != first.split("_")[0]])
        motions = ((first, ""), (second, ""))
    else:
        motions = ((rng.choice(CAMERA), ""),) if rng.random() < 0.2 else ()
        thing = _draw_thing(rng, frames, height, width)
        return Scene(motions, camera_of(motions, tuple(_rate(rng, speed) for _, speed in motions)), thing)
    rates = tuple(0.5 if what == GENTLE else _rate(rng, speed) for what, speed in motions)
    return Scene(motions, camera_of(motions, rates))


def _speed(rng: random.Random) -> str:
    return rng.choices(("", "slow", "fast"), (0.56, 0.22, 0.22))[0]


def _rate(rng: random.Random, speed: str) -> float:
    return rng.uniform(*SPEEDS[speed])


def _draw_thing(rng: random.Random, frames: int, height: int, width: int) -> Thing:
    radius = rng.uniform(9.0, 22.0)
    motion, speed = rng.choice(OBJECT), _speed(rng)
    x, y = (rng.uniform(-0.3, 0.3) * width, rng.uniform(-0.3, 0.3) * height)
    rate = _rate(rng, speed) * THING_SPEED
    floor = height / 2 - radius - rng.uniform(0, 0.08) * height
    if motion in ("fall", "bounce"):
        speed = ""
        y = -height / 2 + radius + rng.uniform(0.0, 0.2) * height
        path = _drop(x, y, floor, rng.uniform(*GRAVITY), 0.82 if motion == "bounce" else 0.0, frames)
    else:
        ahead = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[motion]
        # It begins where there is room before it.
        x = abs(x) * -ahead[0] if ahead[0] else x
        y = abs(y) * -ahead[1] if ahead[1] else y
        path = tuple((x + ahead[0] * rate * t, y + ahead[1] * rate * t) for t in range(frames))
    colour = rng.choice([*COLOURS]) if rng.random() < 0.75 else None
    return Thing(rng.choice(SHAPES), colour, motion, speed, radius, path)


def _drop(
    x: float, y: float, floor: float, gravity: float, kept: float, frames: int
) -> tuple[tuple[float, float], ...]:
    """Fall to the floor, and rise again with a part of the speed."""
    path, velocity = [], 0.0
    for _ in range(frames):
        path.append((x, y))
        velocity += gravity
        y += velocity
        if y > floor:
            y, velocity = floor - (y - floor) * kept, -velocity * kept
    return tuple(path)
