"""Runs the VAE over whole videos, differentiably, and loads what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dev.train_demo import state
from dev.train_demo.networks import Sizes, make_vae

ALIGNED = 8
"""Channels are filled up with zeros to a multiple of this, without which bfloat16 convolutions are slow."""


def half_precision(device: torch.device) -> torch.autocast:
    """The context in which networks compute in bfloat16, where the device is faster in it."""
    faster = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=faster)


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
