"""What a generation starts from and is given: noise, and pictures as the inpainting network reads them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.shape import Geometry

BLACK = -1.0
"""What the VAE sees where nothing is given; pixels of a picture that are as black get no noise."""

LATENTS, PICTURES = "latents", "pictures"
"""Names of the draws."""


def draw(seed: int, bucket: Bucket, latents: tuple[int, ...], given: bool) -> dict[str, Tensor]:
    """Draw for latents first, then for pictures, as the original does, so a seed means the same on every device.

    Noise is drawn on the CPU in float32: torch's bfloat16 draws there have no tails beyond 3.3 standard deviations.

    Args:
        seed: Of all draws.
        bucket: Shape of the video.
        latents: Shape of its latents.
        given: Whether pictures are given.

    Returns:
        ``latents``, and where pictures are given ``pictures``, (3, frames, height, width), of which given frames get
        theirs.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = {LATENTS: torch.randn(latents, generator=generator)}
    if given:
        noise[PICTURES] = torch.randn((3, bucket.frames, bucket.height, bucket.width), generator=generator)
    return noise


def given_frames(job: Job, geometry: Geometry = EASYANIMATE_V51.geometry) -> dict[int, Picture]:
    """Which frames of the video are given, by index; of a single frame the end picture wins.

    Raises:
        ValueError: the number of frames is not one that the model makes, there is an end picture without a start
            picture, or a picture is not of the bucket's size.
    """
    if wrong := geometry.frames_refusal(job.bucket.frames):
        raise ValueError(wrong)
    if job.start is None:
        if job.end is not None:
            raise ValueError("an end picture needs a start picture")
        return {}
    given = {0: job.start}
    if job.end is not None:
        given[job.bucket.frames - 1] = job.end
    for picture in given.values():
        if (picture.height, picture.width) != (job.bucket.height, job.bucket.width):
            raise ValueError(f"a picture of {picture.height}x{picture.width} in a bucket of {job.bucket.name}")
        if len(picture.rgb) != 3 * picture.height * picture.width:
            raise ValueError(f"{len(picture.rgb)} bytes for a picture of {picture.height}x{picture.width} RGB pixels")
    return given


def given_video(
    given: Mapping[int, Picture], noise: Tensor, augmentation: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The given pictures with noise on them in a black video, (1, 3, frames, height, width).

    Args:
        given: Pictures by frame.
        noise: Standard normal, (3, frames, height, width).
        augmentation: Standard deviation of the noise on pictures, whose range is [-1, 1].
        device: Of the video.
        dtype: Of the video.
    """
    video = torch.full((1, *noise.shape), BLACK, device=device, dtype=dtype)
    for index, picture in given.items():
        pixels = to_pixels(picture).to(device, dtype)
        noisy = pixels + augmentation * noise[:, index].to(device, dtype)
        video[0, :, index] = torch.where(pixels == BLACK, pixels, noisy)
    return video


def to_pixels(picture: Picture) -> Tensor:
    """Turn a picture into the VAE's input, (3, height, width) float32 in [-1, 1]."""
    bytes_ = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8)
    unit = bytes_.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
    return 2 * unit - 1
