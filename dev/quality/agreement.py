"""Whether a video moves as its prompt says: which way, and how far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from dev.quality import camera, thing
from dev.quality.camera import vector
from dev.quality.cases import Case, Frames
from dev.quality.targets import STILL
from dev.train_demo.motion import GRAVITY, SPEEDS, THING_SPEED, Camera, Thing, camera_of

RIGHT_WAY = math.cos(math.radians(30))
"""Cosine of the largest angle to what was asked for; zooms and turns count as what they look like."""
RIGHT_SIZE = 0.4
"""Share by which it may be too fast or too slow, against the middle of what the prompt's words stand for."""

_MIDDLE = {word: mean(between) for word, between in SPEEDS.items()}


@dataclass(frozen=True)
class Motion:
    """What a video does, and what was asked for. Both are vectors in pixels a frame, of a short side of 128."""

    asked: tuple[float, ...]
    """Of a camera four numbers, see `camera.vector`; of an object two, its mean speed while it was judged."""
    found: tuple[float, ...]
    camera: tuple[float, float, float, float]
    """The camera's motion; behind an object the scene should stand still."""

    @property
    def speed(self) -> float:
        """Pixels a frame."""
        return math.hypot(*self.found)

    @property
    def cosine(self) -> float:
        """Of the angle between both; 0 where nothing moves or nothing should."""
        product = math.hypot(*self.asked) * self.speed
        return sum(a * b for a, b in zip(self.asked, self.found, strict=True)) / product if product else 0.0

    @property
    def ratio(self) -> float:
        """How far it goes the way that was asked for, as a share of how far it should."""
        length = math.hypot(*self.asked)
        return self.cosine * self.speed / length if length else 0.0

    @property
    def still(self) -> bool:
        """Whether it was to hold still."""
        return not any(self.asked)

    @property
    def right_way(self) -> bool:
        """Whether it goes where it should."""
        return self.speed < STILL if self.still else self.cosine >= RIGHT_WAY

    @property
    def agrees(self) -> bool:
        """Whether it goes where it should, as far as it should."""
        return self.right_way and (self.still or abs(self.ratio - 1) <= RIGHT_SIZE)


def judge(case: Case, frames: Frames, device: torch.device | None = None) -> Motion:
    """Measure one video; see `judge_all`."""
    return judge_all([case], [frames], device)[0]


def judge_all(cases: list[Case], videos: list[Frames], device: torch.device | None = None) -> list[Motion]:
    """Measure videos of one bucket.

    Args:
        cases: What was asked for.
        videos: What was made of it.
        device: Where to compute; the CPU by default.
    """
    batch = torch.stack([torch.from_numpy(frames) for frames in videos]).to(device or "cpu").permute(0, 1, 4, 2, 3)
    batch = batch.float() / 255
    things = [case.scene.thing for case in cases]
    paths = [thing.track(video, asked) if asked else None for asked, video in zip(things, batch, strict=True)]
    scene = torch.ones_like(batch[:, :, 0])
    for number, (asked, path) in enumerate(zip(things, paths, strict=True)):
        if asked and path:
            scene[number] = thing.scene_behind(batch[number], asked, path)
    moves = camera.estimate(batch, scene)
    return [_motion(*facts) for facts in zip(cases, batch, paths, moves, strict=True)]


def asked_camera(case: Case) -> Camera:
    """What the prompt asks of the camera; speeds are the middle of what their words stand for."""
    motions = case.scene.motions
    return camera_of(motions, tuple(_MIDDLE[speed] for _, speed in motions))


def _motion(case: Case, video: Tensor, path: thing.Path | None, moves: Camera) -> Motion:
    if case.scene.thing is None or path is None:
        return Motion(vector(asked_camera(case)), vector(moves), vector(moves))
    height, width = (side / camera.unit_scale(*video.shape[-2:]) for side in video.shape[-2:])
    frame, away = asked_of(case.scene.thing, len(video), height, width)
    x, y = thing.offsets(path, moves)[frame]
    return Motion((away[0] / frame, away[1] / frame), (x / frame, y / frame), vector(moves))


def asked_of(asked: Thing, frames: int, height: float, width: float) -> tuple[int, tuple[float, float]]:
    """Until which frame an object is judged, and where it should be then, in pixels from its start.

    It is judged while it is well inside the picture; one that falls, until it could first touch the ground. Whether it
    bounces after that is not looked at.
    """
    x, y = asked.path[0]
    if asked.motion in ("fall", "bounce"):
        drop = max(1.0, max(place[1] for place in asked.path) - y)
        last = _falling(drop, GRAVITY[1])
        last = max(1, min(last, frames - 1))
        return last, (0.0, mean(GRAVITY) * last * (last + 1) / 2)
    speed = _MIDDLE[asked.speed] * THING_SPEED
    right, down = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[asked.motion]
    room = (width / 2 - x * right if right else height / 2 - y * down) - 0.5 * asked.radius
    last = max(1, min(frames - 1, int(room / (SPEEDS[asked.speed][1] * THING_SPEED))))
    return last, (right * speed * last, down * speed * last)


def _falling(drop: float, gravity: float) -> int:
    """Whole frames in which an object falls no farther than `drop`."""
    return int((math.sqrt(1 + 8 * drop / gravity) - 1) / 2)
