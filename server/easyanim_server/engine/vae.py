"""The video VAE, safe against failures: pixels to latents and back, a few frames at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor


class VideoAutoencoder:
    """Encodes and decodes in causal chunks: the first frame alone, then four at a time.

    The stock network keeps the features that a chunk leaves for the next one inside its modules. A failure between
    two chunks leaves them there, where they break the next video or leak into it, and two videos at once mix. Here
    they belong to one use: they are put into the modules for one chunk, under a lock, and taken out after it,
    whatever happens. So uses may fail, be abandoned half-way, interleave, and come from several threads.

    Args:
        vae: The stock network. It is not tiled, which would change pixels.
    """

    def __init__(self, vae: AutoencoderKLMagvit) -> None:
        self._vae = vae
        self._lock = threading.Lock()
        self._causal = [module for module in vae.modules() if hasattr(module, "prev_features")]

    @torch.no_grad()
    def encode(self, video: Tensor, observe: Callable[[int, int], None]) -> Tensor:
        """Compress a video to the most likely latents.

        Args:
            video: (batch, 3, frames, height, width) in [-1, 1], in the weights' dtype; frames of the form 4k+1,
                height and width multiples of 8.
            observe: Called with (frames done, frames) before the first chunk and after each; may raise to leave.

        Returns:
            (batch, 16, (frames - 1) / 4 + 1, height / 8, width / 8), scaled to the transformer's range.

        Raises:
            ValueError: the number of frames is not of the form 4k+1, which the network would fail on half-way.
        """
        frames = video.shape[2]
        if frames % self._vae.temporal_compression_ratio != 1:
            raise ValueError(f"{frames} frames cannot be encoded; must be 4k+1")
        features = self._no_features()
        moments = []
        observe(0, frames)
        for chunk in _chunks(frames, self._vae.num_sample_frames_batch_size):
            with self._continued(features):
                moments.append(self._vae.encoder(video[:, :, chunk]))
            observe(chunk.stop, frames)
        mean = self._vae.quant_conv(torch.cat(moments, dim=2)).chunk(2, dim=1)[0]
        latents: Tensor = mean * self._vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Decompress latents, yielding frames as soon as they are there.

        Their concatenation is the stock network's full decode. The generator may be left at any point.

        Args:
            latents: (batch, 16, frames', height / 8, width / 8), in the transformer's range.

        Yields:
            (batch, 3, n, height, width), about [-1, 1] with overshoot, where n is 1, then 4, 4, ...
        """
        z = self._vae.post_quant_conv(1 / self._vae.config.scaling_factor * latents)
        features = self._no_features()
        for chunk in _chunks(z.shape[2], self._vae.num_latent_frames_batch_size):
            with self._continued(features):
                frames: Tensor = self._vae.decoder(z[:, :, chunk])
            yield frames

    def _no_features(self) -> list[Tensor | None]:
        return [None] * len(self._causal)

    @contextmanager
    def _continued(self, features: list[Tensor | None]) -> Iterator[None]:
        """Run one chunk after the one that left `features`, and replace them with what it leaves."""
        with self._lock:
            for module, left in zip(self._causal, features, strict=True):
                module.prev_features = left
            try:
                yield
                features[:] = [module.prev_features for module in self._causal]
            finally:
                for module in self._causal:
                    module.prev_features = None


def to_uint8(video: Tensor) -> Tensor:
    """Turn decoded frames into pixels, rounding half to even as diffusers' `VideoProcessor` does.

    Args:
        video: (3, n, height, width); [-1, 1] is the visible range, the rest is clipped.

    Returns:
        (n, height, width, 3) uint8, on the same device.
    """
    unit = (video * 0.5 + 0.5).clamp(0, 1).float()
    return (unit * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _chunks(frames: int, size: int) -> Iterator[slice]:
    """Cut a causal sequence: its first frame, then `size` at a time."""
    yield slice(0, 1)
    for start in range(1, frames, size):
        yield slice(start, min(start + size, frames))
