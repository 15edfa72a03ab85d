"""Trains the VAE: first both halves on a linear code, then as one."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor, nn

from dev.train_demo import clips, state
from dev.train_demo.linear import LinearCode
from dev.train_demo.motion import draw_scene
from dev.train_demo.networks import Sizes, make_vae
from dev.train_demo.optimiser import MuonAdamW
from dev.train_demo.pictures import SIDE, Bank, load_photographs, square
from dev.train_demo.vae_forward import decode, encode, half_precision


@dataclass(frozen=True)
class Stage:
    """Clips that are trained with until a share of the time has passed."""

    until: float
    side: int
    frames: int
    batch: int


STAGES = (Stage(0.4, 64, 9, 64), Stage(0.75, 128, 9, 32), Stage(1.0, 128, 17, 16))
CPU_STAGES = (Stage(0.15, 64, 1, 16), Stage(0.5, 64, 5, 6), Stage(0.75, 128, 5, 2), Stage(1.0, 128, 9, 2))
SMOKE_STAGES = (Stage(0.5, 32, 5, 4), Stage(1.0, 48, 9, 4))

TAUGHT = 0.5
"""Share of the time in which the halves are trained each by itself."""

NOISE = 0.05
"""Standard deviation of what is added to latents before they are decoded: no generated ones are exact."""


@dataclass(frozen=True)
class Options:
    """How to train."""

    photographs: Path
    out: Path
    seconds: float
    device: torch.device
    resume: Path | None = None
    steps: int | None = None
    """Train for so many steps instead, for results that do not depend on the machine's speed."""
    rate: float = 1e-3
    seed: int = 0
    stages: tuple[Stage, ...] = STAGES
    bank: int = 768
    refresh: int = 24
    """Pictures of the bank that are replaced every eight steps."""
    sizes: Sizes = field(default_factory=Sizes)
    save_every: float = 60.0


def train(options: Options) -> dict[str, Any]:
    """Train for so many seconds, log, save every minute; returns the last evaluation."""
    device = options.device
    vae, optimiser = _network(options)
    log = state.Log(options.out / "vae.jsonl")
    rng = random.Random(options.seed)
    photographs = load_photographs(options.photographs, device, held_out=False)
    judged = load_photographs(options.photographs, device, held_out=True)
    bank = Bank(photographs, options.bank, device, seed=options.seed)
    code = LinearCode(_draw(bank, Stage(1.0, options.stages[-1].side, 5, 48), rng), vae.config.latent_channels)
    run = state.Run({"vae": vae, "code": code}, optimiser, decay=0.998)
    resumed = state.exists(options.resume)
    if resumed and options.resume:
        run.restore(options.resume)
        rng.seed(options.seed + run.steps)
    # Small clips are for beginners.
    stages = options.stages[1:] if resumed and len(options.stages) > 1 else options.stages
    log(event="begin", steps=run.steps, weights=sum(p.numel() for p in vae.parameters()), device=str(device))

    began = saved = logged = time.monotonic()
    before, first, total, counted = run.seconds, run.steps, torch.zeros(3, device=device), 0
    while (progress := state.progress(options.steps, run.steps - first, time.monotonic() - began, options.seconds)) < 1:
        stage = next((s for s in stages if progress < s.until), stages[-1])
        rate = optimiser.set_rate(state.rate_at(progress, 1.0))
        video = _draw(bank, stage, rng)
        with half_precision(device):
            losses = _losses(vae, video, code(video), by_half=progress < TAUGHT and not resumed)
        _descend(vae, optimiser, losses[0] + 0.3 * losses[1] + 0.3 * losses[2])
        run.average()
        if run.steps % 8 == 0:
            bank.refresh(options.refresh)
        total += torch.stack([part.detach() for part in losses])
        counted += 1
        now = time.monotonic()
        run.seconds = before + now - began
        if now - logged > 10 or (counted == 1 and run.steps == first + 1):
            rmse, edges, missed = (total / counted).tolist()  # waits for the device, so that no queue builds up
            log(step=run.steps, seconds=now - began, psnr=_psnr(rmse), edges=edges, missed=missed, side=stage.side,
                frames=stage.frames, rate=rate,
                steps_per_second=(run.steps - first) / max(now - began, 1e-3))  # fmt: skip
            total.zero_()
            counted, logged = 0, time.monotonic()
        if now - saved > options.save_every:
            run.save(options.out / "vae", {"stage": "vae"})
            log(event="saved", step=run.steps, **_judge_averages(run, vae, judged[:4]))
            saved = time.monotonic()
    run.swap()
    result = judge(vae, judged)
    normalisation = measure(vae, bank, rng)
    run.swap()
    run.save(options.out / "vae", {"stage": "vae", "normalisation": normalisation, **result})
    log(event="end", step=run.steps, **result)
    return result


def _network(options: Options) -> tuple[AutoencoderKLMagvit, MuonAdamW]:
    """The network with random weights of the seed, and the optimiser of its weights."""
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    vae = make_vae(options.sizes).to(options.device)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and options.device.type == "cuda":  # CPUs convolve faster in the other order
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    kernels = [weight for weight in vae.parameters() if weight.ndim == 5 and weight.shape[-1] > 1]
    return vae, MuonAdamW(vae.parameters(), kernels, options.rate, decay=1e-3)


def _descend(vae: AutoencoderKLMagvit, optimiser: MuonAdamW, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0, foreach=True)
    optimiser.step()


def _draw(bank: Bank, stage: Stage, rng: random.Random) -> Tensor:
    scenes = [draw_scene(rng, stage.frames, stage.side, stage.side) for _ in range(stage.batch)]
    return clips.draw(bank.pictures, scenes, stage.frames, stage.side, stage.side, rng)


def _losses(vae: AutoencoderKLMagvit, video: Tensor, taught: Tensor, by_half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Error of the decoded clip, error of its edges, and the encoder's distance from the linear code; means over clips.

    The error is the root mean square of each clip, so that the gradient favours neither easy nor hard clips much.
    First frames count three times: they are the picture that a user gives.

    Args:
        vae: What is trained.
        video: (clips, 3, frames, height, width).
        taught: The clips in linear code, of the shape of latents.
        by_half: Whether the decoder reads the linear code, and not what the encoder makes of the clips.
    """
    mean = encode(vae, video).float().chunk(2, dim=1)[0]
    read = taught if by_half else mean
    made = decode(vae, read + NOISE * torch.randn_like(read)).float()
    squares = (made - video).square().mean(dim=(1, 3, 4))  # (clips, frames)
    weights = torch.ones(squares.shape[1], device=squares.device)
    weights[0] = 3.0
    error = ((squares * weights).sum(1) / weights.sum() + 1e-6).sqrt().mean()
    edges = ((made - video).diff(dim=-1).abs().mean() + (made - video).diff(dim=-2).abs().mean()) / 2
    # Where the halves are trained as one, the encoder may leave the code; but not by far, so that its latents keep
    # their spread and stay as simple.
    missed = (mean - taught).square().mean()
    return error, edges, missed if by_half else 0.1 * missed


@torch.no_grad()
def judge(vae: AutoencoderKLMagvit, photographs: list[Tensor]) -> dict[str, Any]:
    """Peak signal-to-noise ratios in dB over photographs that were not trained with, 128x128, pixels as stored.

    Returns:
        The mean over single frames, their list, and the mean over clips of 25 frames panned over them.
    """
    device = next(vae.parameters()).device
    singles = torch.stack([square(photograph, 128, 128) for photograph in photographs])
    stills = _round_trip(vae, singles[:, :, None])[:, :, 0]
    each = [_psnr(float(error)) for error in (stills - _as_stored(singles)).square().mean(dim=(1, 2, 3)).sqrt()]
    bank = torch.stack([_enlarged(photograph) for photograph in photographs]).to(device)
    rng = random.Random(5)
    scenes = [draw_scene(rng, 25, 128, 128) for _ in photographs]
    videos = clips.draw(bank, scenes, 25, 128, 128, rng)
    made = torch.cat([_round_trip(vae, video[None]) for video in videos])
    moving = (made - _as_stored(videos)).square().mean(dim=(1, 2, 3, 4)).sqrt()
    return {
        "psnr_photographs": sum(each) / len(each),
        "psnr_clips": sum(_psnr(float(error)) for error in moving) / len(moving),
        "psnr_each": [round(value, 1) for value in each],
    }


def _judge_averages(run: state.Run, vae: AutoencoderKLMagvit, photographs: list[Tensor]) -> dict[str, Any]:
    run.swap()
    found = judge(vae, photographs)
    run.swap()
    return found


def _enlarged(photograph: Tensor) -> Tensor:
    return ((square(photograph, SIDE, SIDE) + 1) * 127.5).round().to(torch.uint8)


def _round_trip(vae: AutoencoderKLMagvit, videos: Tensor) -> Tensor:
    """Encode and decode, (n, 3, frames, height, width); what comes back is as it would be stored."""
    with half_precision(videos.device):
        latents = encode(vae, videos).chunk(2, dim=1)[0]
        return _as_stored(decode(vae, latents).float())


def _as_stored(video: Tensor) -> Tensor:
    return ((video.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _psnr(rmse: float) -> float:
    """Of errors of pixels in [-1, 1]."""
    return 20 * math.log10(2 / max(rmse, 1e-6))


@torch.no_grad()
def measure(vae: AutoencoderKLMagvit, bank: Bank, rng: random.Random, batches: int = 4) -> dict[str, list[float]]:
    """Mean and deviation of every latent channel over training clips."""
    found = []
    side = 128 if bank.pictures.is_cuda else 64
    for _ in range(batches):
        scenes = [draw_scene(rng, 17, side, side) for _ in range(8)]
        video = clips.draw(bank.pictures, scenes, 17, side, side, rng)
        found.append(encode(vae, video).chunk(2, dim=1)[0].transpose(0, 1).flatten(1).float())
    latents = torch.cat(found, dim=1)
    return {"mean": latents.mean(1).tolist(), "deviation": latents.std(1).tolist()}
