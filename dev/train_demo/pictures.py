"""Pictures that scenes are made of: crops of photographs, and textures drawn from nothing. All on the device."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDE = 320
"""Pixels of a picture in the bank: room for a wide frame that moves."""


def load_photographs(folder: Path, device: torch.device, held_out: bool) -> list[Tensor]:
    """Read what `photos.collect` has written: (3, height, width) uint8 each."""
    index = json.loads((folder / "photographs.json").read_text(encoding="utf-8-sig"))
    files = [folder / entry["file"] for entry in index if entry["held_out"] == held_out]
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).to(device) for file in files]


def square(photograph: Tensor, height: int, width: int) -> Tensor:
    """The middle of a photograph in this size, as a client crops it: (3, height, width) in [-1, 1]."""
    _, h, w = photograph.shape
    scale = max(height / h, width / w)
    ch, cw = round(height / scale), round(width / scale)
    top, left = (h - ch) // 2, (w - cw) // 2
    crop = photograph[None, :, top : top + ch, left : left + cw].float()
    small = F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return (small[0].round().clamp(0, 255) / 127.5) - 1


class Bank:
    """Some hundred pictures on the device, of which a few are replaced now and then.

    Args:
        photographs: (3, h, w) uint8 each; may be none.
        size: Pictures in it.
        seed: Of everything that is drawn.
        textures: Share of pictures that are drawn and not photographed.
    """

    def __init__(
        self, photographs: list[Tensor], size: int, device: torch.device, seed: int, textures: float = 0.3
    ) -> None:
        self._photographs = photographs
        self._rng = random.Random(seed)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._textures = textures if photographs else 1.0
        self._next = 0
        self.pictures = torch.empty(size, 3, SIDE, SIDE, dtype=torch.uint8, device=device)
        """(size, 3, SIDE, SIDE) uint8."""
        for start in range(0, size, 32):
            self.refresh(min(32, size - start))

    def refresh(self, count: int) -> None:
        """Replace the `count` oldest pictures."""
        drawn = sum(self._rng.random() < self._textures for _ in range(count))
        parts = [self._photograph() for _ in range(count - drawn)]
        new = torch.stack(parts) if parts else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8, device=self._device)
        if drawn:
            new = torch.cat((new, _bytes(draw_textures(drawn, SIDE, self._generator))))
        where = [(self._next + i) % len(self.pictures) for i in range(count)]
        self._next = (self._next + count) % len(self.pictures)
        self.pictures[torch.tensor(where, device=self._device)] = new

    def _photograph(self) -> Tensor:
        """A photograph at a random scale; what is beyond its edges is its mirror image."""
        rng = self._rng
        photograph = rng.choice(self._photographs)
        _, h, w = photograph.shape
        short = min(h, w)
        target = min(math_uniform(rng, 132.0, 420.0), 1.15 * short)
        size = (max(8, round(h * target / short)), max(8, round(w * target / short)))
        picture = F.interpolate(
            photograph[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )[0]
        rows = _mirrored(size[0], rng, self._device)
        columns = _mirrored(size[1], rng, self._device)
        picture = picture[:, rows][:, :, columns]
        if rng.random() < 0.5:
            picture = picture.flip(-1)
        if rng.random() < 0.6:  # light and colour
            gains = torch.tensor([rng.uniform(0.8, 1.2) for _ in range(3)], device=self._device).view(3, 1, 1)
            grey = picture.mean(0, keepdim=True)
            picture = grey + (picture - grey) * rng.uniform(0.6, 1.3)
            picture = ((picture / 255).clamp(1e-4, 1) ** rng.uniform(0.7, 1.4)) * 255 * gains
        return picture.round().clamp(0, 255).to(torch.uint8)


def math_uniform(rng: random.Random, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(low * (high / low) ** rng.random())


def _mirrored(length: int, rng: random.Random, device: torch.device) -> Tensor:
    """Indices of SIDE neighbouring pixels of an endless row of mirror images; the middle shows the picture itself."""
    slack = length - SIDE
    start = rng.randint(0, slack) if slack > 0 else slack // 2 + rng.randint(-16, 16)
    index = (torch.arange(SIDE, device=device) + start) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def draw_textures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw pictures whose statistics are like nature's: overlapping shapes of all sizes, filled with 1/f noise.

    Returns:
        (count, 3, side, side) float32 in [0, 1].
    """
    device = generator.device

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device) * (high - low) + low

    def colour() -> Tensor:  # mostly pale ones
        return uniform(count, 1, 1, 1) + uniform(count, 3, 1, 1, low=-0.3, high=0.3)

    noise = _noise(count, side, generator)
    picture = (colour() + noise * uniform(count, 1, 1, 1, low=0.02, high=0.16)).clamp(0, 1)
    ramp = torch.linspace(-1, 1, side, device=device)
    y, x = ramp.view(1, -1, 1), ramp.view(1, 1, -1)
    slope = uniform(count, 3, 2, low=-0.3, high=0.3)
    picture = picture + slope[:, :, 0, None, None] * x[:, None] + slope[:, :, 1, None, None] * y[:, None]
    shapes = 72
    # Small shapes are many and large ones few: the density of radius r falls as r to the power of -3.
    radius = 0.06 / (1 - uniform(shapes, count) * (1 - (0.06 / 0.7) ** 2)).sqrt()
    order = radius.argsort(0, descending=True)
    radius = radius.gather(0, order)
    for number, r in enumerate(radius):
        cx, cy, angle = uniform(3, count, 1, 1, low=-1.0, high=1.0).unbind(0)
        c, s = torch.cos(angle * 3.2), torch.sin(angle * 3.2)
        u, v = ((x - cx) * c + (y - cy) * s) / r.view(-1, 1, 1), ((y - cy) * c - (x - cx) * s) / r.view(-1, 1, 1)
        v = v * uniform(count, 1, 1, low=0.4, high=3.0)
        boxy = uniform(count, 1, 1) < 0.5
        distance = torch.where(boxy, torch.maximum(u.abs(), v.abs()), (u * u + v * v).sqrt())
        soft = uniform(count, 1, 1, low=0.01, high=0.06) / r.view(-1, 1, 1).clamp(min=0.05)
        alpha = ((1 - distance) / soft).clamp(0, 1)[:, None]
        fill = colour() + noise.roll(37 * number % side, -1) * uniform(count, 1, 1, 1, low=0.0, high=0.12)
        light = 1 + uniform(count, 1, 1, low=-0.3, high=0.3) * u
        picture = picture * (1 - alpha) + alpha * fill * light[:, None]
    plain = (uniform(count, 1, 1, 1) < 0.25).float()
    textured = 0.5 + noise * uniform(count, 1, 1, 1, low=0.05, high=0.25)
    return (picture * (1 - plain) + textured * plain).clamp(0, 1)


def _noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Noise whose amplitude falls with frequency, (count, 3, side, side), of unit variance, its colours related."""
    device = generator.device
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator, device=device))
    fy = torch.fft.fftfreq(side, device=device).view(-1, 1)
    fx = torch.fft.rfftfreq(side, device=device).view(1, -1)
    frequency = (fx * fx + fy * fy).sqrt().clamp(min=1 / side)
    power = torch.rand(count, 1, 1, 1, generator=generator, device=device) * 1.4 + 0.6
    noise = torch.fft.irfft2(spectrum / frequency**power, s=(side, side))
    mixing = torch.randn(count, 3, 3, generator=generator, device=device) * 0.35
    mixing = mixing + torch.rand(count, 1, 3, generator=generator, device=device)
    noise = torch.einsum("nij,njhw->nihw", mixing, noise)
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)
