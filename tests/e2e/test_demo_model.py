"""The model that comes with the server does what its card says: a photograph that it never saw moves as it is told."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

from dev.quality.camera import estimate, vector
from easyanim_server.config.model_defaults import DEMO_FOLDER
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

ROOT = Path(__file__).resolve().parents[2]
SQUARE, WIDE = Bucket.parse("128x128x25"), Bucket.parse("128x224x25")
MIDDLE, SLOW, FAST = 1.2, 0.6, 2.2
"""Pixels a frame, as the card says."""


@cache
def engine() -> Engine:
    return Engine(EasyAnimatePipeline(checkpoint.load("builtin:demo", device=torch.device("cpu"), dtype=torch.float32)))


def photograph(bucket: Bucket) -> Image.Image:
    with Image.open(ROOT / "examples" / "coffee.jpg") as image:
        return ImageOps.fit(image.convert("RGB"), (bucket.width, bucket.height))


def make(prompt: str, bucket: Bucket = SQUARE) -> Tensor:
    """The video, (frames, 3, height, width) in [0, 1]."""
    start = Picture(bucket.width, bucket.height, photograph(bucket).tobytes())
    guidance = engine().capabilities.defaults.guidance
    job = Job("1", prompt, "", bucket, 10, guidance, seed=3, start=start, acceleration=Acceleration(Solver.UNIPC))
    sampling = engine().begin(job)
    while not sampling.done:
        engine().step(sampling)
    frames = np.concatenate(list(engine().decode(sampling)))
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255


def motion(video: Tensor) -> np.ndarray:
    """Right, down, growth and clockwise turn, all in pixels a frame."""
    return np.array(vector(estimate(video[None])[0]))


@pytest.mark.parametrize(
    ("prompt", "bucket", "asked"),
    [
        ("the camera pans left", SQUARE, (MIDDLE, 0, 0, 0)),
        ("镜头快速向右平移", WIDE, (-FAST, 0, 0, 0)),
        ("the camera tilts slowly up", SQUARE, (0, SLOW, 0, 0)),
        ("镜头下摇", SQUARE, (0, -MIDDLE, 0, 0)),
        ("zoom in on a cup of coffee", WIDE, (0, 0, MIDDLE, 0)),
        ("镜头拉远", SQUARE, (0, 0, -MIDDLE, 0)),
        ("rotate clockwise", SQUARE, (0, 0, 0, MIDDLE)),
    ],
)
def test_a_photograph_moves_as_the_prompt_says(
    prompt: str, bucket: Bucket, asked: tuple[float, float, float, float]
) -> None:
    found = motion(make(prompt, bucket))

    assert np.linalg.norm(found - asked) < 0.4 * np.linalg.norm(asked), found


@pytest.mark.parametrize("prompt", ["hold still", "镜头静止"])
def test_what_is_told_to_hold_still_does(prompt: str) -> None:
    assert np.linalg.norm(motion(make(prompt))) < 0.3


@pytest.mark.parametrize("bucket", [SQUARE, WIDE], ids=str)
def test_the_first_frame_is_the_given_picture(bucket: Bucket) -> None:
    given = torch.from_numpy(np.array(photograph(bucket))).permute(2, 0, 1) / 255
    error = (make("pan right", bucket)[0] - given).square().mean()

    assert -10 * torch.log10(error) > 24


def test_its_weights_are_few_and_in_half_precision() -> None:
    files = list(DEMO_FOLDER.rglob("*.safetensors"))

    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 24e6
    assert {weight.dtype for file in files for weight in load_file(file).values()} == {torch.float16}


def test_its_card_names_every_photograph_with_author_and_licence() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \| (trained|judged) \|$", credits(), re.MULTILINE)

    assert len(rows) == len(re.findall(r"^\| `", credits(), re.MULTILINE)) > 100
    assert sum(used == "judged" for *_, used in rows) == 22


def credits() -> str:
    return (DEMO_FOLDER / "PHOTOGRAPHS.md").read_text(encoding="utf-8")
