"""Trains the VAE: first both halves on a linear code, then as one."""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dev.train_demo import clips, state
from dev.train_demo.linear import LinearCode
from dev.train_demo.motion import draw_scene
from dev.train_demo.networks import Sizes, make_vae
from dev.train_demo.optimiser import MuonAdamW
from dev.train_demo.pictures import SIDE, Bank, load_photographs, square

ALIGNED = 8
"""Channels are filled up with zeros to a multiple of this, without which bfloat16 convolutions are slow."""


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
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    vae = make_vae(options.sizes).to(device)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and device.type == "cuda":  # CPUs convolve faster in the other order
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    kernels = [weight for weight in vae.parameters() if weight.ndim == 5 and weight.shape[-1] > 1]
    optimiser = MuonAdamW(vae.parameters(), kernels, options.rate, decay=1e-3)
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
    result: dict[str, Any] = {}
    while (progress := state.progress(options.steps, run.steps - first, time.monotonic() - began, options.seconds)) < 1:
        stage = next((s for s in stages if progress < s.until), stages[-1])
        rate = optimiser.set_rate(state.rate_at(progress, 1.0))
        video = _draw(bank, stage, rng)
        with half_precision(device):
            losses = _losses(vae, video, code(video), by_half=progress < TAUGHT and not resumed)
        loss = losses[0] + 0.3 * losses[1] + 0.3 * losses[2]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0, foreach=True)
        optimiser.step()
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


def _draw(bank: Bank, stage: Stage, rng: random.Random) -> Tensor:
    scenes = [draw_scene(rng, stage.frames, stage.side, stage.side) for _ in range(stage.batch)]
    return clips.draw(bank.pictures, scenes, stage.frames, stage.side, stage.side, rng)


def half_precision(device: torch.device) -> torch.autocast:
    """The context in which networks compute in bfloat16, where the device is faster in it."""
    faster = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=faster)


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


def encode(vae: AutoencoderKLMagvit, video: Tensor) -> Tensor:
    """Run the encoder over a whole video at once: equal to the class's own chunks, and differentiable.

    Args:
        vae: The stock network.
        video: (batch, 3, 4k+1, height, width) in [-1, 1].

    Returns:
        Means and logarithms of variances, (batch, 32, k+1, height / 8, width / 8).
    """
    x = _causal(vae.encoder.conv_in, video)
    for block in vae.encoder.down_blocks:
        for residual in block.convs:
            x = _residual(residual, x)
        if block.downsampler is not None:
            x = _causal(block.downsampler.conv, F.pad(x, (0, 1, 0, 1)))
    for residual in vae.encoder.mid_block.convs:
        x = _residual(residual, x)
    x = _causal(vae.encoder.conv_out, _norm_silu(vae.encoder.conv_norm_out, x))
    moments: Tensor = vae.quant_conv(x)
    return moments


def decode(vae: AutoencoderKLMagvit, latents: Tensor) -> Tensor:
    """Run the decoder over a whole video at once; the inverse of `encode` in its shapes.

    Args:
        vae: The stock network.
        latents: (batch, 16, k+1, height / 8, width / 8).

    Returns:
        (batch, 3, 4k+1, height, width), about [-1, 1].
    """
    latents = latents.contiguous(memory_format=torch.channels_last_3d)
    x = _causal(vae.decoder.conv_in, vae.post_quant_conv(latents))
    for residual in vae.decoder.mid_block.convs:
        x = _residual(residual, x)
    for block in vae.decoder.up_blocks:
        for residual in block.convs:
            x = _residual(residual, x)
        if block.upsampler is not None:
            x = _causal(block.upsampler.conv, _repeat(x, 1, 2))
            if block.upsampler.temporal_upsample:  # every frame twice, but for the first
                x = torch.cat((x[:, :, :1], _repeat(x[:, :, 1:], 2, 1)), dim=2)
    return _causal(vae.decoder.conv_out, _norm_silu(vae.decoder.conv_norm_out, x))


def _residual(block: Any, x: Tensor) -> Tensor:
    y = _causal(block.conv1, _norm_silu(block.norm1, x))
    y = _causal(block.conv2, _norm_silu(block.norm2, y))
    return y + (block.shortcut(x) if isinstance(block.shortcut, nn.Conv3d) else x)


def _repeat(x: Tensor, frames: int, pixels: int) -> Tensor:
    """Repeat frames, and pixels in both directions, in channels_last_3d order; its gradient is a plain sum."""
    b, c, t, h, w = x.shape
    y = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    y = y.expand(b, t, frames, h, pixels, w, pixels, c).reshape(b, t * frames, h * pixels, w * pixels, c)
    return y.permute(0, 4, 1, 2, 3)


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise every frame by itself, in the type of `x`; sums are in float32 either way."""
    frames = x.transpose(1, 2).flatten(0, 1)
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        y = F.silu(F.group_norm(frames, norm.num_groups, weight, bias, norm.eps))
    return y.view(x.shape[0], x.shape[2], *y.shape[1:]).transpose(1, 2)


def _causal(conv: Any, x: Tensor) -> Tensor:
    """Convolve behind copies of the first frame, all frames at once."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    x = torch.cat((*(x[:, :, :1],) * conv.temporal_padding, x), dim=2)
    weight, bias = conv.weight, conv.bias
    more_in, more_out = -conv.in_channels % ALIGNED, -conv.out_channels % ALIGNED
    if x.is_cuda and (more_in or more_out):
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more_in, 0, more_out))
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
        bias = F.pad(bias, (0, more_out))
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, more_in)) if more_in else x
    return F.conv3d(x, weight, bias, conv.stride, conv.padding)[:, : conv.out_channels]


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


@torch.no_grad()
def normalise(vae: AutoencoderKLMagvit, normalisation: dict[str, list[float]]) -> None:
    """Give every latent channel mean 0 and deviation 1 by changing the 1x1x1 convolutions beside the latents.

    What the VAE makes of a video stays the same, and `scaling_factor` is 1.
    """
    device = vae.quant_conv.weight.device
    mean = torch.tensor(normalisation["mean"], device=device)
    deviation = torch.tensor(normalisation["deviation"], device=device)
    channels = len(mean)
    vae.quant_conv.weight[:channels] /= deviation.view(-1, 1, 1, 1, 1)
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / deviation
    vae.quant_conv.bias[channels:] -= 2 * deviation.log()
    vae.post_quant_conv.bias += torch.einsum("oi,i->o", vae.post_quant_conv.weight[:, :, 0, 0, 0], mean)
    vae.post_quant_conv.weight *= deviation.view(1, -1, 1, 1, 1)


def load(folder: Path, sizes: Sizes, device: torch.device) -> AutoencoderKLMagvit:
    """Load a trained VAE with averaged weights and normalised latents, for use.

    Args:
        folder: What a run saved, or an exported component.
        sizes: Of a saved run; an exported component says its own.
        device: Where it goes.
    """
    if (folder / "config.json").is_file():
        exported: AutoencoderKLMagvit = AutoencoderKLMagvit.from_config(
            json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
        )
        exported.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
        return exported.to(device).eval().requires_grad_(False)
    vae = make_vae(sizes)
    facts = state.load_averages(folder, {"vae": vae})
    if "normalisation" in facts:
        normalise(vae, facts["normalisation"])
    return vae.to(device).eval().requires_grad_(False)
