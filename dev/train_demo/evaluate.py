"""Generates from photographs that were not trained with, and compares with what should have come."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKLMagvit
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dev.train_demo import clips, prompts, vae_forward
from dev.train_demo.inputs import given_video, tokenize
from dev.train_demo.motion import CAMERA, Scene, camera_of, draw_scene
from dev.train_demo.pictures import SIDE, square
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.schedule import LOG_SHIFT
from easyanim_server.prompts.negative import recommended_negative

if TYPE_CHECKING:
    from dev.train_demo.denoiser import Denoiser, Options


@dataclass(frozen=True)
class Cases:
    """Things to generate."""

    scenes: list[Scene]
    texts: list[str]
    video: Tensor
    """What should come, (cases, 3, frames, height, width) in [-1, 1]; its first frames are given."""


def make_cases(photographs: list[Tensor], options: Options, seed: int) -> Cases:
    """Every camera motion, holding still, and objects, over held-out photographs in turn."""
    rng = random.Random(seed)
    shape = options.shapes[0]
    scenes = [Scene((), camera_of((), ()))]
    scenes += [Scene(((what, ""),), camera_of(((what, ""),), (1.2,))) for what in CAMERA]
    scenes = scenes[: options.judged]
    while len(scenes) < options.judged:
        scene = draw_scene(rng, shape.frames, shape.height, shape.width)
        if scene.thing is not None:
            scenes.append(scene)
    texts = [prompts.describe(scene, rng, ("en", "zh")[n % 2]) for n, scene in enumerate(scenes)]
    bank = torch.stack([((square(p, SIDE, SIDE) + 1) * 127.5).round().to(torch.uint8) for p in photographs])
    videos = [
        clips.draw(bank[n % len(bank), None], [scene], shape.frames, shape.height, shape.width, rng)
        for n, scene in enumerate(scenes)
    ]
    return Cases(scenes, texts, torch.cat(videos))


@torch.no_grad()
def judge(
    net: Denoiser,
    encoder: AutoencoderKLMagvit,
    cases: Cases,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: tuple[tuple[int, float], ...],
) -> dict[str, Any]:
    """Generate all cases at each (steps, guidance); writes sheets of pictures into `out`.

    Returns:
        For each setting, mean dB of first frames against the given pictures, of last frames against what should have
        come, and how many pans and tilts went the right way, and within 40 % of the right distance.
    """
    found: dict[str, Any] = {}
    for steps, guidance in settings:
        made = generate(net, encoder, cases, tokenizer, steps, guidance)
        name = f"{steps}x{guidance:g}"
        found[f"first_{name}"] = _mean_psnr(made[:, :, 0], cases.video[:, :, 0])
        found[f"last_{name}"] = _mean_psnr(made[:, :, -1], cases.video[:, :, -1])
        right = near = counted = 0
        for scene, video in zip(cases.scenes, made, strict=True):
            truth = np.array((scene.camera.right, scene.camera.down))
            if scene.thing is None and np.abs(truth).any():
                moved = drift(video)
                counted += 1
                right += bool(moved @ truth > 0.5 * np.linalg.norm(moved) * np.linalg.norm(truth))
                near += bool(np.linalg.norm(moved - truth) < 0.4 * np.linalg.norm(truth))
        found[f"pans_{name}"] = f"{right} right, {near} near, of {counted}"
        sheet(made, cases.video, cases.texts, out / f"samples_{name}.png")
    return found


@torch.no_grad()
def generate(
    net: Denoiser,
    encoder: AutoencoderKLMagvit,
    cases: Cases,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    guidance: float,
) -> Tensor:
    """Sample as the server does, all cases at once; (cases, 3, frames, height, width) in [-1, 1]."""
    device = cases.video.device
    generator = torch.Generator(device).manual_seed(0)
    scheduler = builtin.scheduler()
    scheduler.set_timesteps(steps, mu=LOG_SHIFT)
    sigmas = scheduler.sigmas.tolist()
    none = torch.zeros(len(cases.texts), dtype=torch.bool, device=device)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        torch.compiler.set_stance("force_eager"),
    ):
        given = vae_forward.encode(encoder, given_video(cases.video, none)).chunk(2, dim=1)[0].float()
        text = net.embed(tokenize(tokenizer, cases.texts).to(device))
        negatives = [recommended_negative(prompt) for prompt in cases.texts]
        negative = net.embed(tokenize(tokenizer, negatives).to(device))
        x = torch.randn(given.shape, generator=generator, device=device)
        for now, then in pairwise(sigmas):
            sigma = torch.full((len(x),), now, device=device)
            velocity = net(x, sigma, text, given)
            if guidance != 1:
                away = net(x, sigma, negative, given)
                velocity = away + guidance * (velocity - away)
            x = x + (then - now) * velocity
        return torch.cat([vae_forward.decode(encoder, part).float().clamp(-1, 1) for part in x.split(4)])


def drift(video: Tensor, until: int = 9) -> np.ndarray[Any, Any]:
    """Pixels a frame, right and down, by which a video's first frames move, from phase correlation.

    Args:
        video: (3, frames, height, width).
        until: Frames that are looked at; motion between the first and the last of them must fit into the picture.
    """
    grey = video.mean(0).cpu().double().numpy()
    until = min(until, len(grey))
    first, last = grey[0], grey[until - 1]
    window = np.outer(np.hanning(first.shape[0]), np.hanning(first.shape[1]))
    a, b = (np.fft.fft2((frame - frame.mean()) * window) for frame in (first, last))
    cross = b * a.conj()
    peaks = np.fft.ifft2(cross / (np.abs(cross) + 1e-3 * np.abs(cross).max())).real
    row, column = np.unravel_index(peaks.argmax(), peaks.shape)
    down, right = (_between(peaks, row, column, axis) for axis in (0, 1))
    return np.array((right, down)) / (until - 1)


def _between(peaks: np.ndarray[Any, Any], row: Any, column: Any, axis: int) -> float:
    """The peak's place along an axis, to parts of a pixel, from the middle of its neighbourhood."""
    size, at = peaks.shape[axis], (row, column)[axis]
    line = np.take(peaks, column if axis == 0 else row, axis=1 - axis)
    near = np.array([max(line[(at + step) % size], 0.0) for step in (-1, 0, 1)])
    place = at + (near @ np.array((-1, 0, 1))) / max(near.sum(), 1e-9)
    return float(place - size if place > size / 2 else place)


def _mean_psnr(made: Tensor, truth: Tensor) -> float:
    errors = (made.clamp(-1, 1) - truth).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / errors.clamp(min=1e-9))).mean())


def sheet(made: Tensor, truth: Tensor, texts: list[str], file: Path, shown: int = 5) -> None:
    """Write frames of every case, made above true, with its text."""
    index = torch.linspace(0, made.shape[2] - 1, shown).round().long()
    rows = []
    for video in (made, truth):
        frames = ((video[:, :, index.to(video.device)].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        rows.append(frames.permute(0, 3, 2, 4, 1).flatten(2, 3).numpy())  # (cases, height, shown * width, 3)
    cells = [np.concatenate((a, b)) for a, b in zip(*rows, strict=True)]
    if len(cells) % 2:
        cells.append(np.zeros_like(cells[0]))
    half = len(cells) // 2
    picture = Image.fromarray(np.concatenate((np.concatenate(cells[:half]), np.concatenate(cells[half:])), axis=1))
    draw = ImageDraw.Draw(picture)
    height, width = cells[0].shape[:2]
    for number, text in enumerate(texts):
        latin = text.encode("latin-1", "replace").decode("latin-1")
        draw.text((3 + number // half * width, 2 + number % half * height), latin, fill=(255, 255, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
