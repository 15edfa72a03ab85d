"""What is generated to be judged: scenes in words over photographs that no training saw, the same for each number."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from dev.quality.camera import unit_scale
from dev.train_demo import clips, prompts
from dev.train_demo.motion import Scene, draw_scene
from dev.train_demo.pictures import SIDE, load_photographs, square
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket, Picture

Frames = NDArray[np.uint8]
"""(frames, height, width, 3)."""

LANGUAGES = ("en", "zh")

HOLD, CAMERA, SPEED, TWO, THING = "hold", "camera", "camera with a speed", "two motions", "object"
GROUPS = (HOLD, CAMERA, SPEED, TWO, THING)
"""What reports distinguish."""

KINDS = (
    (CAMERA, "pan_left"), (THING, "right"), (SPEED, "zoom_in"), (HOLD, ""), (CAMERA, "tilt_up"),
    (SPEED, "turn_clockwise"), (THING, "fall"), (CAMERA, "zoom_out"), (SPEED, "pan_right"),
    (CAMERA, "turn_counterclockwise"), (TWO, ""), (THING, "up"), (SPEED, "tilt_down"),
    (CAMERA, "pan_right"), (THING, "left"), (SPEED, "zoom_out"), (HOLD, ""), (CAMERA, "tilt_down"),
    (SPEED, "turn_counterclockwise"), (THING, "bounce"), (CAMERA, "zoom_in"), (SPEED, "pan_left"),
    (CAMERA, "turn_clockwise"), (THING, "down"), (SPEED, "tilt_up"),
)  # fmt: skip
"""Taken in turn, so that a few of the cases are already of many kinds. Each comes in both languages."""

LEAST_CONTRAST = 0.008
"""Root mean square of the change a pixel in the direction in which a picture has least of it, of a range of 2."""

SEED = 2025
"""Of everything that is drawn."""


@dataclass(frozen=True)
class Case:
    """One thing to generate."""

    index: int
    group: str
    language: str
    scene: Scene
    """In pixels of a short side of `camera.UNIT_SIDE`."""
    prompt: str
    bucket: Bucket
    photograph: int
    seed: int
    """Of the generation."""

    @property
    def motion(self) -> str:
        """What is asked for, in short: ``zoom_in fast``, ``object fall``, ``hold``."""
        if self.scene.thing is not None:
            return f"object {self.scene.thing.motion} {self.scene.thing.speed}".strip()
        return " and ".join(f"{what} {speed}".strip() for what, speed in self.scene.motions) or HOLD


def make_case(index: int, buckets: Sequence[Bucket], photographs: int) -> Case:
    """Draw the case of a number.

    Args:
        index: From 0; even ones are in English, odd ones in Chinese, and each pair is of one kind, bucket and
            photograph.
        buckets: One of four cases is in the second one, and so on; most are in the first.
        photographs: How many there are.
    """
    pair, rng = index // 2, random.Random(f"{SEED} {index}")
    bucket = buckets[1 + pair // 4 % (len(buckets) - 1)] if len(buckets) > 1 and pair % 4 == 3 else buckets[0]
    kind = KINDS[pair % len(KINDS)]
    height, width = _unit_size(bucket)
    while True:  # as scenes of training are drawn, but for the kind
        scene = draw_scene(rng, bucket.frames, height, width)
        if _is(scene, *kind):
            break
    language = LANGUAGES[index % 2]
    prompt = prompts.describe(scene, rng, language)
    return Case(index, kind[0], language, scene, prompt, bucket, pair % photographs, seed=SEED + index)


def _is(scene: Scene, group: str, what: str) -> bool:
    """Whether a scene is of that kind."""
    if scene.thing is not None:
        return group == THING and not scene.motions and scene.thing.motion == what
    if group == HOLD:
        return not scene.motions
    if group == TWO:
        return len(scene.motions) == 2
    if group in (CAMERA, SPEED) and len(scene.motions) == 1:
        return scene.motions[0][0] == what and bool(scene.motions[0][1]) == (group == SPEED)
    return False


def _unit_size(bucket: Bucket) -> tuple[int, int]:
    scale = unit_scale(bucket.height, bucket.width)
    return round(bucket.height / scale), round(bucket.width / scale)


class Photographs:
    """Pictures that the model was not trained with.

    Args:
        folder: What `python -m dev.train_demo photos` wrote, of which the photographs held out are taken; or any
            folder of pictures.

    Raises:
        ConfigurationError: there is no such folder, or no picture in it.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / "photographs.json").is_file():
            self.pictures = load_photographs(folder, torch.device("cpu"), held_out=True)
        else:
            self.pictures = list(_read(folder))
        if not self.pictures:
            raise ConfigurationError(f"{folder} has no pictures to make videos of")

        self.telling = [picture for picture in self.pictures if _tells_motion(picture)]
        """Those in which motion can be seen; others are for the VAE alone."""
        if not self.telling:
            raise ConfigurationError(f"the pictures in {folder} are too plain for motion to be seen in them")

    def __len__(self) -> int:
        return len(self.telling)

    def digest(self) -> str:
        """SHA-256 of all pixels, hex."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(str(tuple(picture.shape)).encode() + picture.numpy().tobytes())
        return digest.hexdigest()

    def truth(self, case: Case) -> Frames:
        """Draw what a case asks for: the scene over the middle of its photograph, whose first frame is given."""
        scale = unit_scale(case.bucket.height, case.bucket.width)
        side = round(SIDE * max(scale, 1.0))
        bank = _bytes(square(self.telling[case.photograph], side, side))[None]
        rng = random.Random(f"{SEED} {case.index} clip")
        size = (case.bucket.height, case.bucket.width)
        return to_frames(clips.draw(bank, [case.scene], case.bucket.frames, *size, rng, scale)[0])

    def stills(self, height: int, width: int) -> list[Frames]:
        """The middle of every photograph, as videos of one frame."""
        return [to_frames(square(picture, height, width)[:, None]) for picture in self.pictures]


def picture_of(frames: Frames) -> Picture:
    """The first frame, as a job takes it."""
    height, width = frames.shape[1:3]
    return Picture(width, height, frames[0].tobytes())


def to_frames(video: Tensor) -> Frames:
    """(3, frames, height, width) in [-1, 1] as bytes."""
    return np.ascontiguousarray(_bytes(video).permute(1, 2, 3, 0).numpy())


def _tells_motion(picture: Tensor) -> bool:
    """Whether its middle has enough contrast for motion to be seen in any direction."""
    side = SIDE // 2
    grey = square(picture, SIDE, SIDE).mean(0)[side // 2 : -side // 2, side // 2 : -side // 2]
    down, across = torch.gradient(F.avg_pool2d(grey[None], 3, stride=1)[0])
    product = (across * down).mean()
    tensor = torch.stack((torch.stack((across.square().mean(), product)), torch.stack((product, down.square().mean()))))
    return float(torch.linalg.eigvalsh(tensor)[0].clamp(min=0).sqrt()) >= LEAST_CONTRAST


def _bytes(pixels: Tensor) -> Tensor:
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _read(folder: Path) -> list[Tensor]:
    """Every picture of a folder, by name: (3, height, width) uint8 each."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"there are no photographs in {folder}: `python -m dev.train_demo photos` fetches ours, and "
            "--photographs names another folder of pictures"
        )
    pictures = []
    for file in sorted(folder.iterdir()):
        try:
            with Image.open(file) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError):  # a folder of pictures may hold other things too
            continue
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return pictures
