"""What the VAE's milliseconds go into on this GPU: its kernels by torch's profiler, and its convolutions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder

Timed = Callable[[Callable[[], object]], tuple[list[float], float]]
"""Runs something repeatedly; returns the milliseconds of each round, and GB."""


def profiled(vae: VideoAutoencoder, video: Tensor, latents: Tensor) -> list[dict[str, Any]]:
    """Kernels of one encode and one decode by the time that they take."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        vae.encode(video, lambda done, total: None)
        for _ in vae.decode(latents):
            pass
        torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type == torch._C._autograd.DeviceType.CUDA:
            spent[event.name] += event.device_time / 1000
            calls[event.name] += 1
    whole = sum(spent.values())
    print(f"\nkernels of encode and decode: {whole:.0f} ms")
    kernels: list[dict[str, Any]] = [
        {"kernel": name, "ms": round(ms, 2), "share": round(ms / whole, 4), "calls": calls[name]}
        for name, ms in spent.most_common(14)
    ]
    for kernel in kernels:
        print(f"  {kernel['ms']:8.1f} ms  {kernel['share']:6.1%}  {kernel['calls']:6}  {kernel['kernel'][:100]}")
    return kernels


CONVOLUTIONS = ((128, 128, 384, 672), (256, 128, 384, 672), (256, 256, 384, 672), (256, 256, 192, 336),
                (512, 512, 96, 168), (512, 512, 48, 84), (8, 128, 384, 672), (128, 8, 384, 672))  # fmt: skip
"""(in, out, height, width) of the network's convolutions; 8 stands for 3 or 16 channels."""


def convolutions(device: torch.device, dtype: torch.dtype, timed: Timed) -> list[dict[str, Any]]:
    """TFLOP/s of convolutions alone: in space and time, and in space over three stacked frames."""
    found = []
    print("\nconvolutions alone, TFLOP/s: in three dimensions, and in two over three frames in the channels")
    for into, out, height, width in CONVOLUTIONS:
        for frames in (1, 4, 16):
            flops = 2 * 27 * into * out * height * width * frames
            options: dict[str, Any] = {"device": device, "dtype": dtype}
            x = torch.randn((1, into, frames + 2, height, width), **options)
            w = torch.randn((out, into, 3, 3, 3), **options)
            x, w = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in (x, w))
            stacked = torch.randn((frames, 3 * into, height, width), **options)
            flat = torch.randn((out, 3 * into, 3, 3), **options)
            stacked, flat = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (stacked, flat))
            rates = []
            runs: tuple[Callable[[], Tensor], ...] = (
                partial(F.conv3d, x, w, padding=(0, 1, 1)),
                partial(F.conv2d, stacked, flat, padding=1),
            )
            for run in runs:
                run()
                times, _ = timed(run)
                rates.append(flops / min(times) / 1e9)
            found.append(
                {"in": into, "out": out, "height": height, "width": width, "frames": frames}
                | {"conv3d_tflops": round(rates[0], 1), "conv2d_tflops": round(rates[1], 1)}
            )
            print(f"  {into:3} -> {out:3}  {height}x{width}  {frames:2} frames  {rates[0]:6.0f}  {rates[1]:6.0f}")
    return found
